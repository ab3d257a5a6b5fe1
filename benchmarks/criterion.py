"""Does the criterion that needs no labels choose as the paper's does with them? Over 42 runs on each of three data sets.

    python benchmarks/criterion.py [--sets baron kang hard] [--epochs 150]

Cycle weights (0, 2, 5, 10, 20, 50) x KL weights (1, 3) x three seeds, and two more settings that shrink dimensions (KL
weight 10). Each run gets its overall score by the paper's rule with the cell types, and by tune's own without. Spearman's
correlation over the runs and over the settings, the settings that either would choose, and what the choice without
labels costs, measured with them, go to results/criterion.csv; single runs to results/criterion_runs.csv; the figure to
docs/criterion.png. Embeddings are kept in .cache and reused.
"""
