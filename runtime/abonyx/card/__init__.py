"""How far to trust a head: folds by sequence cluster, cheap baselines, statistics, and a first line in plain words.

Works on arrays alone: sequences, scores or embeddings, labels. Only linear.py imports scikit-learn.
"""
