"""The figures of Girolami & Calderhead (2011), Tables 3-7: 5000 draws, means of 10 runs, in MATLAB."""

from typing import NamedTuple


class Published(NamedTuple):
    """seconds: of the draws.  ess: the least, median and largest effective size of a coefficient.
    seconds_per_ess: for one effective draw of the worst coefficient."""

    seconds: float
    ess: tuple[int, int, int]
    seconds_per_ess: float

    def __str__(self) -> str:
        return f"{self.seconds}; {', '.join(map(str, self.ess))}; {self.seconds_per_ess}"


# By data set and method.
PUBLISHED = {
    "australian": {
        "RMHMC": Published(81.7, (4975, 5000, 5000), 0.016),
        "HMC": Published(87.3, (3197, 3612, 3982), 0.027),
        "mMALA": Published(3.2, (487, 625, 746), 0.006),
    },
    "german": {
        "RMHMC": Published(246.6, (4757, 5000, 5000), 0.052),
        "HMC": Published(117.9, (3182, 3632, 3986), 0.037),
        "mMALA": Published(5.0, (435, 615, 747), 0.012),
    },
    "heart": {
        "RMHMC": Published(42.2, (4862, 5000, 5000), 0.0087),
        "HMC": Published(27.6, (3246, 3647, 4003), 0.0085),
        "mMALA": Published(1.6, (371, 481, 617), 0.0043),
    },
    "pima": {
        "RMHMC": Published(34.4, (5000, 5000, 5000), 0.0069),
        "HMC": Published(45.7, (3265, 3605, 3893), 0.014),
        "mMALA": Published(1.9, (1046, 1160, 1300), 0.0018),
    },
    "ripley": {
        "RMHMC": Published(28.0, (4273, 4677, 4961), 0.0065),
        "HMC": Published(24.8, (3326, 3719, 4053), 0.0076),
        "mMALA": Published(1.3, (291, 403, 473), 0.0045),
    },
}
