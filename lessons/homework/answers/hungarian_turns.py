# Built by `lessons build` from notebooks/11_hungarian.ipynb: edit that, not this.
"""The turns of hungarian outside of it."""


def proves_best(c: list[list[int]], columns: list[int], u: list[int], v: list[int]) -> bool:
    """Whether the prices u, v prove that the matching of row i with columns[i] is the cheapest."""
    n = len(c)
    fair = all(u[i] + v[j] <= c[i][j] for i in range(n) for j in range(n))
    tight = all(u[i] + v[columns[i]] == c[i][columns[i]] for i in range(n))
    return fair and tight


def raise_prices(
    c: list[list[int]], u: list[int], v: list[int], rows: list[int], reached: dict[int, int]
) -> tuple[int, int, list[int], list[int]]:
    """One more tight pair (i, j) out of the tree, and the prices that make it tight: i, j, u, v.

    Of pairs with equal slack it is the one of the lowest row, then of the lowest column.
    `rows` are the tree's rows, `reached` its columns, each with the row that reached it.
    """
    u, v = [*u], [*v]
    outside = [j for j in range(len(v)) if j not in reached]
    slack, i, j = min((c[i][j] - u[i] - v[j], i, j) for i in rows for j in outside)
    for k in rows:
        u[k] += slack
    for k in reached:
        v[k] -= slack
    return i, j, u, v


def swap_path(row_of: dict[int, int], reached: dict[int, int], j: int) -> dict[int, int]:
    """The matching (column → its row) after the path that ends in the free column j is swapped.

    `row_of` is the matching before: the new row is not in it. `reached` holds the columns of the
    tree, each with the row that reached it; some of them need not be on the path.
    """
    column_of = {i: j for j, i in row_of.items()}
    row_of = dict(row_of)
    while j is not None:
        i = reached[j]
        row_of[j] = i
        j = column_of.get(i)  # what it gives up
    return row_of
