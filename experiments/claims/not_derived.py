"""The sentences whose figures are in no JSON, and why."""

from experiments.claims.check import PAGE, README, Claim

SETTING, TARGET = "a setting of the run, as its command gives it", "what the project had set itself"
UNKEPT = "measured once, beside what the page is about; its JSON was not kept"
NOT_DERIVED: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    (
        README,
        SETTING,
        (
            "60,000 images, 300 seconds on one core",
            "45 CPU seconds of training a method",
            "(logistic regression 1000 × 25)",
        ),
    ),
    (
        PAGE,
        SETTING,
        (
            "MNIST, dynamic binarization, 60,000 training images",
            "MNIST, 60,000 images, 784-200-200-20 tanh nets, every method given the same 150 seconds",
            "The best at 150 seconds",
            "With 600 seconds",
            "The same on one core for 300 seconds",
            "120 seconds on one core",
            "on a subset of 4,500 training images",
            "gradient was clipped at 1000",
            "a first step size (0.3)",
            "784-200-200-20, 100 epochs, 60,000 images",
            "all 10,000 test images",
            "784-200-200-d, 100 epochs, 60,000 images",
            "On 300 of the 10,000 test images",
            "6,000 images, batch 128",
            "logistic regression 1000 × 25, Fisher metric, ε = 0.5, six steps",
            "6,000 MNIST images, 784-300-300-20 nets",
        ),
    ),
    (
        PAGE,
        TARGET,
        (
            "The target that the project had set itself, 80 % of the gap",
            "The target of 80 % at twice HVI-4's cost",
            "The project had set itself 10 × and 100 ×",
            "8 × in float64, and 25 × mici",
        ),
    ),
    (
        PAGE,
        "read off the picture",
        ("the curves cross between 350 and 450 seconds",),
    ),
    (
        PAGE,
        UNKEPT,
        (
            "From a cold start, in 82 and 87 seconds, the VAE's bound was 14 nats ahead (-237.88 against -251.76)",
            "a VAE of 40 epochs has 7.25 bits per dimension (bound -15,564, gap at least 129 nats), the amortised "
            "metric after 6 epochs more 6.92 (bound -14,779, gap at least 50).",
            "the 40 epochs took 154 seconds, the 6 another 250",
            "first epoch's mean energy error, 2339 nats",
            "(with 300 and 8: 0.02 lower;",
            "RHVAE took 34 × the amortised bound's time, 12 × the Fisher one's and 1.05 × RHVI's",
            "(21 s against",
            "its means on ripley at ε = 0.5, where a third of the solves fail, were 8 to 12 standard errors off",
        ),
    ),
    (PAGE, "half of 0.21 to 0.24, in the table above it", ("(half of the 0.2 in its logarithm)",)),
    (PAGE, "ε times L of the table, and π/2", ("εL = 0.4 where a quarter of a period is 1.6",)),
    (PAGE, "published by Salimans et al. (2015)", ("Salimans' -81.94",)),
)


def claims() -> list[Claim]:
    """All of them."""
    return [Claim(page, text, None, why) for page, why, texts in NOT_DERIVED for text in texts]
