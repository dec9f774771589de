"""Questions beyond the MI of two arrays: of all pairs of columns (pairwise), and which columns to keep (select)."""
