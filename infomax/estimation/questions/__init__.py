"""Questions beyond I(X; Y): given a third variable (given), over lags (lagged), of all pairs of columns (pairwise), and
which columns to keep (select)."""
