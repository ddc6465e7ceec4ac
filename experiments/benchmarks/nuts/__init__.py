"""The no-U-turn sampler against BlackJAX's.

Transitions and integrator steps a second, with the same density, step size, metric (the identity) and largest depth,
one chain and many, in turns within one process; and gradients for an effective draw, each after its own warm-up in
windows. The two do not stop at the same points: BlackJAX has one criterion, with half of both end momenta left out of
the sum; ours is Stan's, with two checks more where spans are joined.
"""
