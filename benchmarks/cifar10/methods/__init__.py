"""The methods by the name that the plan's ``use`` gives.

Those that need a package of their own import it when they begin.
"""

from cifar10.job import Maker
from cifar10.methods.aimet import AIMET
from cifar10.methods.channel_pruning import ChannelPruning
from cifar10.methods.dense import Dense
from cifar10.methods.narrow import Narrow
from cifar10.methods.pat import PAT
from cifar10.methods.svd import SVD
from cifar10.methods.trp import TRP
from cifar10.methods.truncation import Truncation
from cifar10.methods.tucker import Tucker

METHODS: dict[str, Maker] = {
    "svd": SVD,
    "dense": Dense,
    "truncation": Truncation,
    "trp": TRP,
    "tucker": Tucker,
    "channel_pruning": ChannelPruning,
    "aimet": AIMET,
    "pat": PAT,
    "narrow": Narrow,
}
