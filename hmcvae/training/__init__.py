"""Training a bound with any optimizer of Optax: whole epochs on the device, and a host loop that loses nothing.

    loss = -mean over the batch of E[log_weight],   one draw (or K) an example a step

`fit` is the loop; `make_epoch` gives the jitted epoch, and `make_step` the step, for those who write their own.
"""

from hmcvae.training.averages import average_of, averaged
from hmcvae.training.checkpoints import Checkpoints
from hmcvae.training.devices import Devices
from hmcvae.training.epoch import make_epoch, make_monitor, make_step
from hmcvae.training.hosts import LostProcessError, from_all, from_first, gathered, is_first, on_first
from hmcvae.training.inputs import check_training, keep_as_is, preprocess_all
from hmcvae.training.loop import fit
from hmcvae.training.pixels import Pixels
from hmcvae.training.reading import load_params
from hmcvae.training.settings import SCHEDULES, Settings, adam, muon
from hmcvae.training.starting import check_start
from hmcvae.training.state import StepMetrics, TrainState, init_state
from hmcvae.training.streams import make_stream_epoch
from hmcvae.training.watch import NotFiniteError, TrainingWarning

__all__ = [
    "SCHEDULES",
    "Checkpoints",
    "Devices",
    "LostProcessError",
    "NotFiniteError",
    "Pixels",
    "Settings",
    "StepMetrics",
    "TrainState",
    "TrainingWarning",
    "adam",
    "average_of",
    "averaged",
    "check_start",
    "check_training",
    "fit",
    "from_all",
    "from_first",
    "gathered",
    "init_state",
    "is_first",
    "keep_as_is",
    "load_params",
    "make_epoch",
    "make_monitor",
    "make_step",
    "make_stream_epoch",
    "muon",
    "on_first",
    "preprocess_all",
]
