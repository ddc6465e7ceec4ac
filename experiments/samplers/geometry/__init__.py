"""Where geometry wins: posteriors whose shape defeats one mass matrix, and what each sampler makes of them.

A posterior has one or more `Form`s, densities in coordinates of their own that all map to the same common ones; a
contestant is a sampler on one of them. All contestants of a posterior have the same number of chains, transitions of
warm-up and draws, each with its own library's warm-up; compilation, warm-up and draws are timed apart.
"""
