"""What the mass of a warm-up is estimated by, and what that is worth: gradients for an effective draw of `hmcvae.nuts`.

Each form of mass after the same warm-up, from the same starts and keys, on posteriors that differ in what a mass has to
bring right: scales, correlations, many dimensions, skewness.
"""
