"""CIFAR-10 ResNets at a budget of MACs: lorank's recipes and their rivals, trained alike."""
