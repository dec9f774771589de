"""Questions beyond I(X; Y): given a third variable (given), over lags and in a direction (lagged)."""
