"""Lesson 11 and its homework: turns and exercises on matching, and the known mistakes."""

from collections.abc import Iterator
from itertools import permutations

import torch
from torch import Tensor

from lessons.homework.answers.hungarian import auction, margin, match_allowed, price_bound
from lessons.homework.answers.hungarian_turns import proves_best, raise_prices, swap_path
from lessons.hungarian import hungarian
from lessons.kit.homework import Exercise, Homework, mistake


def uniform(generator: torch.Generator, *size: int) -> Tensor:
    """Numbers in [0, 1), in float64."""
    return torch.rand(*size, generator=generator, dtype=torch.float64)


# ---------------------------------------------------------------- your turn: proves_best

SMALL = [[1, 2, 3], [2, 4, 6], [3, 6, 9]]
RING = [[5, 1, 4], [6, 5, 2], [3, 7, 8]]  # the best turns everybody around
Square = tuple[list[list[int]], list[int], list[int], list[int]]


def price_lists_of_squares(generator: torch.Generator) -> Iterator[Square]:
    """Proofs; lists that are too high somewhere, matchings with a loose pair, and both."""
    yield [[1, 3], [2, 3]], [0, 1], [1, 2], [0, 1]
    yield [[1, 3], [2, 3]], [1, 0], [1, 2], [0, 1]  # another matching
    yield [[1, 3], [2, 3]], [0, 1], [1, 1], [0, 1]  # one pair of two is tight
    yield [[2, 1], [1, 2]], [0, 1], [2, 2], [0, 0]  # tight, and the others are cheaper
    yield [[2, 4], [1, 2]], [0, 1], [2, 2], [0, 0]  # only one of the others is
    yield [[2, 1], [4, 2]], [0, 1], [2, 2], [0, 0]
    yield [[2, 4], [1, 3]], [0, 1], [3, 2], [0, 0]  # equal sums, one pair too dear and one loose
    yield [[1, 3], [2, 3]], [0, 1], [2, 2], [0, 1]  # too much for every pair but one
    yield SMALL, [2, 1, 0], [3, 5, 6], [-3, -1, 0]
    yield SMALL, [2, 1, 0], [1, 2, 3], [0, 0, 0]
    yield SMALL, [0, 1, 2], [1, 4, 9], [0, 0, 0]
    yield SMALL, [2, 1, 0], [4, 6, 7], [-4, -2, -1]
    yield RING, [1, 2, 0], [1, 2, 3], [0, 0, 0]
    yield RING, [2, 0, 1], [1, 2, 3], [0, 0, 0]
    yield RING, [1, 2, 0], [2, 3, 1], [2, -1, -1]
    yield [[4, 1, 3], [2, 0, 5], [3, 2, 2]], [1, 0, 2], [2, 1, 1], [1, -1, 1]
    yield [[4, 1, 3], [2, 0, 5], [3, 2, 2]], [0, 1, 2], [2, 1, 1], [1, -1, 1]
    for price in (1, 2, 3):
        yield [[-7]], [0], [-9], [price]


def proved_by(fair=True, tight=True, columns_of=lambda columns: columns):
    """`proves_best` with a condition left out, or with other pairs taken for the matched ones."""

    def proves(c, columns, u, v):
        n, columns = len(c), columns_of(columns)
        every = [(i, j) for i in range(n) for j in range(n)]
        is_fair = all(u[i] + v[j] <= c[i][j] for i, j in every) or not fair
        return is_fair and (all(u[i] + v[columns[i]] == c[i][columns[i]] for i in range(n))
                            or not tight)  # fmt: skip

    return proves


@mistake(
    "some tight pair",
    "You are content with one tight pair among the matched ones. How many must be tight, so that "
    "the matching costs exactly the bound?",
)
def one_tight_pair(c, columns, u, v):
    return proved_by(tight=False)(c, columns, u, v) and any(
        u[i] + v[j] == c[i][j] for i, j in enumerate(columns)
    )


@mistake(
    "all pairs tight",
    "You ask every pair to be tight. Which pairs must be, and what is enough for the others?",
)
def every_pair_tight(c, columns, u, v):
    return all(u[i] + v[j] == x for i, row in enumerate(c) for j, x in enumerate(row))


@mistake(
    "no pair may be tight",
    "You forbid tight pairs: u + v may be as much as the cost, but no more.",
)
def strictly_fair(c, columns, u, v):
    n = len(c)
    return proves_best(c, columns, u, v) and all(
        u[i] + v[j] < c[i][j] for i in range(n) for j in range(n)
    )


@mistake(
    "equal sums",
    "You compare the sum of the prices with the cost, and nothing else. It is a bound only if no "
    "pair is cheaper than its prices.",
)
def equal_sums(c, columns, u, v):
    return sum(u) + sum(v) == sum(c[i][j] for i, j in enumerate(columns))


@mistake(
    "a bound only",
    "You ask whether the prices add up to no more than the matching costs. They do under every "
    "fair list: when is the matching the best?",
)
def no_more_than_the_cost(c, columns, u, v):
    return sum(u) + sum(v) <= sum(c[i][j] for i, j in enumerate(columns))


@mistake(
    "the best, with or without the list",
    "You find out yourself whether the matching is the best. Asked is whether this list proves it: "
    "a poor list proves nothing.",
)
def best_of_all(c, columns, u, v):
    every = permutations(range(len(c)))
    totals = [sum(c[i][j] for i, j in enumerate(chosen)) for chosen in every]
    return sum(c[i][j] for i, j in enumerate(columns)) == min(totals)


@mistake(
    "no positive price",
    "You refuse columns with a positive price. Here no column stays single, every one is paid for, "
    "and prices may have any sign.",
)
def no_positive_price(c, columns, u, v):
    return proves_best(c, columns, u, v) and max(v) <= 0


@mistake(
    "prices of the columns left out",
    "You reckon with the rows' prices alone. What does a pair's column pay?",
)
def rows_alone(c, columns, u, v):
    return proves_best(c, columns, u, [0] * len(v))


PROVES = Exercise(
    proves_best,
    price_lists_of_squares,
    mistakes=[
        mistake(
            "the list is not asked for all pairs",
            "You look at the matched pairs alone. A list that asks more of some other pair than it "
            "costs is no bound.",
        )(proved_by(fair=False)),
        mistake(
            "the matching is not looked at",
            "You look at the list alone. It is a bound under every matching: which of them does it "
            "prove to be the best?",
        )(proved_by(tight=False)),
        mistake(
            "rows for columns",
            "columns[i] is the column of row i; you take it for the row of column i. With three "
            "rows in a ring that is not the same.",
        )(proved_by(columns_of=lambda columns: [columns.index(i) for i in range(len(columns))])),
        one_tight_pair,
        every_pair_tight,
        strictly_fair,
        equal_sums,
        no_more_than_the_cost,
        best_of_all,
        no_positive_price,
        rows_alone,
    ],
)

# ---------------------------------------------------------------- your turn: raise_prices

Search = tuple[list[list[int]], list[int], list[int], list[int], dict[int, int]]


def searches(c: list[list[int]]) -> Iterator[tuple[Search, tuple[dict, dict, int]]]:
    """What each step of the algorithm is given, and the matching, what is reached, the column."""
    u, v, row_of = [], [0] * len(c[0]), {}
    for new in range(len(c)):
        u, rows, reached = [*u, 0], [new], {}
        while True:
            state = c, u, v, rows, reached
            i, j, u, v = raise_prices(*state)
            reached = {**reached, j: i}
            yield state, (row_of, reached, j)
            if j not in row_of:
                break
            rows = [*rows, row_of[j]]
        row_of = swap_path(row_of, reached, j)


def whole_costs(generator: torch.Generator, n: int, m: int, low: int, high: int):
    return torch.randint(low, high + 1, (n, m), generator=generator).tolist()


def searching(generator: torch.Generator) -> Iterator[Search]:
    """Small and large trees, ties, negative costs, more columns than rows."""
    yield SMALL, [1, 2], [0, 0, 0], [1, 0], {0: 1}
    yield SMALL, [0], [0, 0, 0], [0], {}
    yield [[5, 3, 3], [3, 5, 3]], [0, 0], [0, 0, 0], [1, 0], {}  # ties
    for state, _ in searches(whole_costs(generator, 4, 5, -9, 9)):
        yield state
    for state, _ in searches(whole_costs(generator, 4, 4, 0, 3)):
        yield state
    table = [[(i + 1) * (j + 1) for j in range(4)] for i in range(4)]
    yield from [state for state, _ in searches(table)][-4:]


def raised_by(of=min, slack=lambda c, u, v: c - u - v, rows=1, columns=-1, new_alone=False):
    """`raise_prices` with another slack, or with prices moved by other multiples of it."""

    def raised(c, u, v, tree, reached):
        u, v = [*u], [*v]
        outside = [j for j in range(len(v)) if j not in reached]
        asked = tree[:1] if new_alone else tree
        least, i, j = of((slack(c[i][j], u[i], v[j]), i, j) for i in asked for j in outside)
        for k in tree:
            u[k] += rows * least
        for k in reached:
            v[k] += columns * least
        return i, j, u, v

    return raised


@mistake(
    "all rows pay more",
    "You raise the prices of all rows. Only those of the tree look for a column.",
)
def all_rows_pay(c, u, v, rows, reached):
    i, j, new, v = raise_prices(c, u, v, rows, reached)
    return i, j, [price + new[i] - u[i] for price in u], v


@mistake(
    "the new column becomes dearer too",
    "The column that is reached just now becomes dearer as well: then its pair is not tight. "
    "Which columns are in the tree before it?",
)
def new_column_dearer(c, u, v, rows, reached):
    i, j, new, v = raise_prices(c, u, v, rows, reached)
    v[j] -= new[i] - u[i]
    return i, j, new, v


@mistake(
    "only the row of the pair pays more",
    "You raise the price of one row of the tree, the pair's. All of them have to pay, or pairs "
    "inside the tree are not tight any more.",
)
def one_row_pays(c, u, v, rows, reached):
    i, j, new, v = raise_prices(c, u, v, rows, reached)
    return i, j, [new[k] if k == i else price for k, price in enumerate(u)], v


@mistake(
    "columns of the tree too",
    "Your pair may lead to a column that is reached already. Look outside only.",
)
def inside_too(c, u, v, rows, reached):
    slack, i, j = min((c[i][j] - u[i] - v[j], i, j) for i in rows for j in range(len(v)))
    return i, j, *moved_prices(u, v, rows, reached, slack)


@mistake(
    "rows outside of the tree too",
    "Your pair may begin at a row that is not in the tree. Which rows could give up their column?",
)
def any_row(c, u, v, rows, reached):
    outside = [j for j in range(len(v)) if j not in reached]
    slack, i, j = min((c[i][j] - u[i] - v[j], i, j) for i in range(len(u)) for j in outside)
    return i, j, *moved_prices(u, v, rows, reached, slack)


@mistake(
    "another of equal slacks",
    "The prices are right, and your pair is as good. Of pairs with equal slack the one of the "
    "lowest row is asked for, then of the lowest column.",
)
def first_in_the_tree(c, u, v, rows, reached):
    outside = [j for j in range(len(v)) if j not in reached]
    every = [(i, j) for i in rows for j in outside]
    i, j = min(every, key=lambda pair: c[pair[0]][pair[1]] - u[pair[0]] - v[pair[1]])
    return i, j, *moved_prices(u, v, rows, reached, c[i][j] - u[i] - v[j])


@mistake(
    "the lowest column of equal slacks",
    "The prices are right, and your pair is as good. Of pairs with equal slack the one of the "
    "lowest row is asked for, then of the lowest column.",
)
def lowest_column(c, u, v, rows, reached):
    outside = [j for j in range(len(v)) if j not in reached]
    slack, j, i = min((c[i][j] - u[i] - v[j], j, i) for i in rows for j in outside)
    return i, j, *moved_prices(u, v, rows, reached, slack)


@mistake(
    "set, not raised",
    "Your new prices are the slack itself. It is added to what the row pays already, and taken off "
    "what the column does.",
)
def prices_are_set(c, u, v, rows, reached):
    i, j, new, _ = raise_prices(c, u, v, rows, reached)
    slack = new[i] - u[i]
    u = [slack if k in rows else price for k, price in enumerate(u)]
    return i, j, u, [-slack if k in reached else price for k, price in enumerate(v)]


@mistake(
    "moved by the cost",
    "The right pair, but prices move by its cost. Part of that is paid already.",
)
def moved_by_the_cost(c, u, v, rows, reached):
    i, j, _, _ = raise_prices(c, u, v, rows, reached)
    return i, j, *moved_prices(u, v, rows, reached, c[i][j])


@mistake(
    "columns once for each row",
    "The columns of the tree become dearer once for each of its rows. Once is enough.",
)
def columns_for_each_row(c, u, v, rows, reached):
    i, j, new, _ = raise_prices(c, u, v, rows, reached)
    down = (new[i] - u[i]) * len(rows)
    return i, j, new, [price - down * (k in reached) for k, price in enumerate(v)]


@mistake(
    "columns outside of the tree",
    "The columns that become dearer are those outside. Which are to: the ones that the tree has, "
    "or the ones that it wants?",
)
def columns_outside(c, u, v, rows, reached):
    i, j, new, _ = raise_prices(c, u, v, rows, reached)
    down = new[i] - u[i]
    return i, j, new, [price - down * (k not in reached) for k, price in enumerate(v)]


@mistake(
    "the last pair that was looked at",
    "The prices are right, but your i and j are those of the last pair that you looked at. Keep "
    "them together with the smallest slack.",
)
def last_pair(c, u, v, rows, reached):
    _, _, u, v = raise_prices(c, u, v, rows, reached)
    return rows[-1], max(j for j in range(len(v)) if j not in reached), u, v


@mistake(
    "one row and one column",
    "You move the prices of the pair alone. All rows of the tree pay more, all columns that were "
    "reached before become dearer.",
)
def the_pair_alone(c, u, v, rows, reached):
    i, j, new, _ = raise_prices(c, u, v, rows, reached)
    slack = new[i] - u[i]
    u, v = [*u], [*v]
    u[i] += slack
    v[j] -= slack
    return i, j, u, v


def moved_prices(u, v, rows, reached, slack):
    return (
        [price + slack * (k in rows) for k, price in enumerate(u)],
        [price - slack * (k in reached) for k, price in enumerate(v)],
    )


RAISE = Exercise(
    raise_prices,
    searching,
    mistakes=[
        mistake(
            "the cheapest pair",
            "You take the pair of least cost. What a pair costs beyond its prices is its slack.",
        )(raised_by(slack=lambda c, u, v: c)),
        mistake(
            "slack without the column's price",
            "Your slack leaves out what the column pays.",
        )(raised_by(slack=lambda c, u, v: c - u)),
        mistake(
            "slack without the row's price",
            "Your slack leaves out what the row pays.",
        )(raised_by(slack=lambda c, u, v: c - v)),
        mistake(
            "the largest slack",
            "You take the largest slack: then the prices pass the costs of all other pairs.",
        )(raised_by(of=max)),
        mistake(
            "columns stay as they were",
            "The columns of the tree keep their price. With dearer rows, what is the sum of a pair "
            "inside the tree?",
        )(raised_by(columns=0)),
        mistake(
            "columns move with the rows",
            "The columns of the tree move in the same direction as its rows. The sum of a pair "
            "inside the tree must stay.",
        )(raised_by(columns=1)),
        mistake(
            "rows stay as they were",
            "The rows of the tree keep their price. Who pays the slack, so that the pair is tight?",
        )(raised_by(rows=0)),
        mistake(
            "the other way",
            "Your prices move the other way: the new row has to offer more, not less.",
        )(raised_by(rows=-1, columns=1)),
        mistake(
            "the new row alone",
            "You look at the pairs of the new row alone. The other rows of the tree might give up "
            "their column and take another.",
        )(raised_by(new_alone=True)),
        all_rows_pay,
        one_row_pays,
        the_pair_alone,
        prices_are_set,
        moved_by_the_cost,
        columns_for_each_row,
        columns_outside,
        last_pair,
        new_column_dearer,
        inside_too,
        any_row,
        first_in_the_tree,
        lowest_column,
    ],
)

# ---------------------------------------------------------------- your turn: swap_path


def paths(generator: torch.Generator) -> Iterator[tuple[dict, dict, int]]:
    """Long and short ones, with and without columns of the tree that are not on the path."""
    yield {0: 0}, {0: 1, 1: 0}, 1
    yield {}, {2: 0}, 2
    yield {0: 0, 1: 1}, {0: 2, 2: 2}, 2  # the new row reaches the free column itself
    yield {4: 0, 1: 1, 2: 2}, {1: 3, 4: 1, 2: 1, 3: 0}, 3  # column 2 is not on the path
    yield {0: 2, 1: 0, 2: 1}, {0: 3, 1: 2, 2: 0, 5: 1}, 5  # through all
    yield {0: 3, 3: 0, 1: 1}, {3: 2, 0: 2, 2: 3}, 2
    for n, m in ((5, 5), (4, 7)):
        found = searches(whole_costs(generator, n, m, 0, 6))
        yield from [(row_of, reached, j) for _, (row_of, reached, j) in found if j not in row_of]


def column_of(row_of: dict[int, int]) -> dict[int, int]:
    return {i: j for j, i in row_of.items()}


@mistake(
    "only the free column",
    "The free column goes to the row that reached it, and your walk ends. That row has two columns "
    "now: to whom does its old one go?",
)
def first_pair_alone(row_of, reached, j):
    return {**row_of, j: reached[j]}


@mistake(
    "all that was reached",
    "You give every reached column to the row that reached it. Some of them are not on the path: "
    "begin at the free column and walk back.",
)
def all_of_the_tree(row_of, reached, j):
    return {**row_of, **reached}


@mistake(
    "the path alone",
    "The pairs of the path are right. What about matched columns that are not on it?",
)
def the_path_alone(row_of, reached, j):
    after, before = swap_path(row_of, reached, j), column_of(row_of)
    on_path = []
    while j is not None:
        on_path.append(j)
        j = before.get(reached[j])
    return {j: after[j] for j in on_path}


@mistake(
    "the new row at once",
    "The new row takes the free column. Is their pair tight? Walk back by the rows that reached.",
)
def new_row_takes_it(row_of, reached, j):
    after = swap_path(row_of, reached, j)
    (new,) = set(after.values()) - set(row_of.values())
    return {**row_of, j: new}


@mistake(
    "the last pair is missing",
    "The walk ends one pair too early: the new row has no column yet.",
)
def new_row_left_out(row_of, reached, j):
    before = column_of(row_of)
    after = dict(row_of)
    while (i := reached[j]) in before:
        after[j], j = i, before[i]
    return after


@mistake(
    "two pairs at most",
    "Your walk ends after two pairs. The row that took the given-up column may have had one, too.",
)
def two_pairs_at_most(row_of, reached, j):
    old = column_of(row_of).get(reached[j])
    return {**row_of, j: reached[j], **({} if old is None else {old: reached[old]})}


@mistake(
    "the given-up column goes too",
    "Right pairs, but one is gone: a column that a row gives up is taken by the row that reached "
    "it.",
)
def given_up_is_lost(row_of, reached, j):
    after = {k: i for k, i in row_of.items() if i != reached[j]}
    return {**after, j: reached[j]}


@mistake(
    "row → column",
    "You return the column of each row. Asked for is the row of each column.",
)
def columns_of_rows(row_of, reached, j):
    return column_of(swap_path(row_of, reached, j))


SWAP = Exercise(
    swap_path,
    paths,
    seconds=2.0,
    mistakes=[
        first_pair_alone,
        all_of_the_tree,
        the_path_alone,
        new_row_takes_it,
        new_row_left_out,
        two_pairs_at_most,
        given_up_is_lost,
        columns_of_rows,
    ],
)

# ---------------------------------------------------------------- homework 1. match_allowed


def allowed_pairs(generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Costs of all scales and signs; often some row or column must stay single."""
    corner = torch.tensor([[True, True], [True, False]])
    for cost in ([[2, 2], [2, 2]], [[-10, -1], [-1, -1]], [[100, 101], [101, 101]]):
        yield torch.tensor(cost).double(), corner
    sizes = ((6, 6), (5, 9), (9, 5), (12, 12), (4, 4), (3, 8))
    scales = ((1, 0), (300, -250), (3, -4), (5000, 0), (10, -5), (1e13, 0))
    for (n, m), (scale, shift) in zip(sizes, scales, strict=True):
        for share in (0.2, 0.5, 0.8):
            cost = scale * uniform(generator, n, m) + shift
            yield cost, uniform(generator, n, m) < share
    for n in (2, 4, 5, 12):  # one more pair, though everybody must move for it
        cost = 9 + uniform(generator, n, n)
        cost[torch.arange(n), torch.arange(n)] = 0.1 * uniform(generator, n)
        allowed = torch.eye(n, dtype=torch.bool)
        allowed = allowed | allowed.roll(1, dims=1)
        allowed[-1, -1] = False
        yield cost, allowed
    yield uniform(generator, 3, 4), torch.ones(3, 4, dtype=torch.bool)
    yield uniform(generator, 4, 2), torch.zeros(4, 2, dtype=torch.bool)
    yield torch.tensor([[-7.0]]).double(), torch.tensor([[True]])


CONSTANT = (
    "Your cost of a forbidden pair does not depend on the other costs. It is large only for some "
    "of them."
)


def with_cost(cost, allowed, forbidden, keep=False):
    """`match_allowed` with another cost of the forbidden pairs."""
    rows, columns = hungarian(torch.where(allowed, cost, forbidden))
    kept = allowed[rows, columns] | keep
    return rows[kept], columns[kept]


def enough(cost):
    return cost.max() + min(cost.shape) * (cost.max() - cost.min() + 1)


@mistake(
    "forbidden pairs only a little dearer",
    "Your forbidden pairs cost a little more than the dearest allowed one. What if one of "
    "them makes several other pairs cheaper?",
)
def a_little_dearer(cost, allowed):
    return with_cost(cost, allowed, cost.max() + 1)


@mistake(
    "forbidden pairs twice as dear as the dearest",
    "Your forbidden pairs cost about as much as two dear ones. How many other pairs may "
    "have to become dearer to avoid a forbidden one?",
)
def twice_the_dearest(cost, allowed):
    return with_cost(cost, allowed, 2 * cost.abs().max() + 1)


@mistake(
    "a thousand",
    CONSTANT,
)
def a_thousand(cost, allowed):
    return with_cost(cost, allowed, cost.new_tensor(1e3))


@mistake(
    "the same number for all costs",
    CONSTANT,
)
def a_million(cost, allowed):
    return with_cost(cost, allowed, cost.new_tensor(1e6))


@mistake(
    "a cost beyond all rounding",
    "Your cost of a forbidden pair is so large that in a sum with it the other costs are "
    "rounded away: float64 has some sixteen digits. Make it large beside the costs that "
    "are given.",
)
def beyond_rounding(cost, allowed):
    return with_cost(cost, allowed, cost.new_tensor(1e18))


@mistake(
    "a multiple of the largest cost",
    "Your cost of a forbidden pair is a multiple of the largest cost. What is that if all "
    "costs are negative?",
)
def times_the_largest(cost, allowed):
    return with_cost(cost, allowed, 2 * min(cost.shape) * cost.max())


@mistake(
    "forbidden pairs for nothing",
    "Your forbidden pairs cost 0. That makes them attractive.",
)
def free_of_charge(cost, allowed):
    return with_cost(cost, allowed, cost.new_tensor(0.0))


@mistake(
    "forbidden afterwards",
    "You match without the rule and drop what breaks it. Whoever lost a partner that way "
    "might have had another.",
)
def forbidden_afterwards(cost, allowed):
    rows, columns = hungarian(cost)
    kept = allowed[rows, columns]
    return rows[kept], columns[kept]


@mistake(
    "forbidden pairs are returned",
    "The matching is right, but some of the pairs that you return are not allowed: a dear "
    "pair is still made where there is no other.",
)
def forbidden_returned(cost, allowed):
    return with_cost(cost, allowed, enough(cost), keep=True)


@mistake(
    "an infinite cost",
    "`hungarian` refuses infinite costs. How large is large enough?",
)
def infinite_cost(cost, allowed):
    return with_cost(cost, allowed, cost.new_tensor(torch.inf))


@mistake(
    "greedy",
    "You take the cheapest allowed pair first. Section 2 of the lesson shows what that "
    "costs; here it also costs pairs.",
)
def greedy_allowed(cost, allowed):
    left, pairs = torch.where(allowed, cost, torch.inf), []
    while left.isfinite().any():
        i, j = divmod(int(left.argmin()), left.shape[1])
        pairs.append((i, j))
        left[i], left[:, j] = torch.inf, torch.inf
    both = torch.tensor(sorted(pairs), dtype=torch.int64).reshape(-1, 2)
    return both[:, 0], both[:, 1]


ALLOWED = Exercise(
    match_allowed,
    allowed_pairs,
    points=3,
    minutes=15,
    mistakes=[
        a_little_dearer,
        twice_the_dearest,
        a_thousand,
        a_million,
        beyond_rounding,
        times_the_largest,
        free_of_charge,
        forbidden_afterwards,
        forbidden_returned,
        infinite_cost,
        greedy_allowed,
    ],
)

# ---------------------------------------------------------------- homework 2. price_bound


def price_lists(generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Squares and oblongs, prices of both signs and of one only, costs of both signs."""
    yield torch.tensor([[1.0, 3.0], [2.0, 2.0]]).double(), torch.tensor([1.0, -1.0]).double()
    for n, m in ((3, 5), (4, 4), (5, 8), (1, 6), (7, 7)):
        cost = 4 * uniform(generator, n, m) - 1
        yield cost, 3 * uniform(generator, m) - 2
        yield cost, -2 * uniform(generator, m)
        yield cost, uniform(generator, m)
    yield torch.tensor([[2.0]]).double(), torch.tensor([-1.0]).double()


@mistake(
    "positive prices are kept",
    "You sum positive prices too. With more columns than rows some column stays single: "
    "does a matching pay its price?",
)
def positive_prices(cost, v):
    return (cost - v).amin(1).sum() + v.sum()


@mistake(
    "positive prices vanish from the sum only",
    "Your rows still reckon with positive prices that your sum leaves out. Make them 0 first.",
)
def positive_only_in_the_sum(cost, v):
    return (cost - v).amin(1).sum() + v.clamp(max=0).sum()


@mistake(
    "the columns' prices are missing",
    "You sum what the rows pay. The columns pay too, here a negative amount.",
)
def without_columns(cost, v):
    return (cost - v.clamp(max=0)).amin(1).sum()


@mistake(
    "prices on the wrong side",
    "Solve u + v ≤ c for u once more: on which side does v end up?",
)
def prices_added(cost, v):
    v = v.clamp(max=0)
    return (cost + v).amin(1).sum() + v.sum()


@mistake(
    "a row pays too much",
    "Your u is as large as the dearest pair allows. It must hold for all pairs of the row.",
)
def largest_slack(cost, v):
    v = v.clamp(max=0)
    return (cost - v).amax(1).sum() + v.sum()


@mistake(
    "only the columns that rows want",
    "You add the price of each row's favourite column, some of them twice. The sum goes "
    "over all columns, once each.",
)
def wanted_columns_only(cost, v):
    v = v.clamp(max=0)
    least = (cost - v).min(1)
    return least.values.sum() + v[least.indices].sum()


@mistake(
    "minus the magnitude",
    "You turn positive prices into negative ones. They are to become 0.",
)
def magnitude(cost, v):
    v = -v.abs()
    return (cost - v).amin(1).sum() + v.sum()


@mistake(
    "negative prices become 0",
    "You keep the positive prices and drop the negative ones. Which sign is allowed?",
)
def negative_prices_made_zero(cost, v):
    v = v.clamp(min=0)
    return (cost - v).amin(1).sum() + v.sum()


@mistake(
    "all prices are lowered",
    "You lower all prices until none is positive. That is a bound too, but only those "
    "above 0 need to change.",
)
def all_prices_lowered(cost, v):
    v = v - v.max().clamp(min=0)
    return (cost - v).amin(1).sum() + v.sum()


@mistake(
    "the least of each column",
    "You take a least cost for each column. There is one u for each row.",
)
def least_of_each_column(cost, v):
    v = v.clamp(max=0)
    return (cost - v).amin(0).sum() + v.sum()


@mistake(
    "rows pay at least nothing",
    "You make negative u 0. Only the columns' prices have a sign to keep; costs may be "
    "negative, and then u must be too.",
)
def rows_pay_at_least_nothing(cost, v):
    v = v.clamp(max=0)
    return (cost - v).amin(1).clamp(min=0).sum() + v.sum()


BOUND = Exercise(
    price_bound,
    price_lists,
    points=3,
    minutes=15,
    mistakes=[
        positive_prices,
        positive_only_in_the_sum,
        without_columns,
        prices_added,
        largest_slack,
        wanted_columns_only,
        magnitude,
        negative_prices_made_zero,
        all_prices_lowered,
        least_of_each_column,
        rows_pay_at_least_nothing,
    ],
)

# ---------------------------------------------------------------- homework 3. margin


def matchings(generator: torch.Generator) -> Iterator[tuple[Tensor]]:
    """Squares and oblongs, negative costs, a tie, and a single pair."""
    for cost in (
        [[1, 2], [2, 4]],
        [[0, 100], [100, 0]],
        [[1000, 1001], [1001, 1000]],
        [[2, 2], [2, 2]],
    ):
        yield (torch.tensor(cost).double(),)
    for n, m in ((5, 5), (4, 7), (7, 4), (8, 8), (2, 2), (1, 4), (6, 6)):
        yield (uniform(generator, n, m),)
    yield (10 * uniform(generator, 5, 6) - 20,)
    for n in (3, 4, 5):  # the best but one turns everybody around
        turn = 3 + 0.1 * uniform(generator, n, n)
        turn[torch.arange(n), torch.arange(n)] = 1
        turn[torch.arange(n), (torch.arange(n) + 1) % n] = 1.2
        yield (turn,)
    yield (torch.tensor([[1.0, 2.0], [2.0, 3.0]]).double(),)
    yield (torch.tensor([[0.3]]).double(),)


def total(cost, pairs):
    return cost[pairs].sum().item()


def gaps_without(cost, forbidden):
    """For each pair of the best matching, how much dearer the best without it is."""
    rows, columns = hungarian(cost)
    gaps = []
    for i, j in zip(rows.tolist(), columns.tolist(), strict=True):
        without = cost.clone()
        without[i, j] = forbidden
        pairs = hungarian(without)
        there = bool(((pairs[0] == i) & (pairs[1] == j)).any())
        gaps.append(
            (there, total(cost, pairs), total(without, pairs) - total(cost, (rows, columns)))
        )
    return gaps, (rows, columns)


@mistake(
    "the total instead of the difference",
    "You return what the second-best matching costs. How much more is that than the best?",
)
def total_of_the_second(cost):
    gaps, _ = gaps_without(cost, enough(cost))
    return min([second for there, second, _ in gaps if not there], default=float("inf"))


@mistake(
    "only the dearest pair may be missing",
    "You forbid the dearest pair of the best matching. The second best may lack any other.",
)
def only_the_dearest(cost):
    gaps, best = gaps_without(cost, enough(cost))
    there, _, gap = gaps[int(cost[best].argmax())]
    return float("inf") if there else gap


@mistake(
    "every pair differs",
    "You forbid all pairs of the best matching at once. One that differs is enough.",
)
def all_pairs_differ(cost):
    best = hungarian(cost)
    without = cost.clone()
    without[best] = enough(cost)
    pairs = hungarian(without)
    if (without[pairs] >= enough(cost)).any():
        return float("inf")
    return total(cost, pairs) - total(cost, best)


@mistake(
    "each row for itself",
    "You compare the two least costs of each row. The column of the second may be taken.",
)
def best_of_each_row(cost):
    if cost.shape[1] < 2:
        return float("inf")
    least = cost.topk(2, dim=1, largest=False).values
    return (least[:, 1] - least[:, 0]).min().item()


@mistake(
    "swaps of two pairs, moves of one",
    "You try all swaps of two pairs and all moves to a free place. Three pairs can turn in a ring.",
)
def swaps_and_moves(cost):
    rows, columns = (each.tolist() for each in hungarian(cost))
    found, free = [float("inf")], set(range(cost.shape[1])) - set(columns)
    for a in range(len(rows)):
        i, j = rows[a], columns[a]
        found += [(cost[i, k] - cost[i, j]).item() for k in free]
        found += [(cost[k, j] - cost[i, j]).item() for k in set(range(len(cost))) - set(rows)]
        for b in range(a):
            k, l = rows[b], columns[b]  # noqa: E741
            found.append((cost[i, l] + cost[k, j] - cost[i, j] - cost[k, l]).item())
    return min(found)


@mistake(
    "a ban that is too cheap",
    "The pair that you forbid is taken all the same where its price is worth it. How dear "
    "must it be to be out of reach?",
)
def too_cheap_a_ban(cost):
    gaps, _ = gaps_without(cost, cost.max() + 0.01)
    return min(gap for _, _, gap in gaps)


@mistake(
    "the ban is paid where there is no other matching",
    "Right, except where there is no second matching: there you return the price of the "
    "forbidden pair.",
)
def ban_is_paid(cost):
    gaps, _ = gaps_without(cost, enough(cost))
    return min(gap for _, _, gap in gaps)


@mistake(
    "an infinite ban",
    "`hungarian` refuses infinite costs. How dear must the forbidden pair be to be out of reach?",
)
def infinite_ban(cost):
    gaps, _ = gaps_without(cost, torch.inf)
    return min(gap for _, _, gap in gaps)


@mistake(
    "equal totals count once",
    "Right, except where two matchings have the same total: the second best is then as "
    "good as the best.",
)
def equal_totals_count_once(cost):
    gaps, _ = gaps_without(cost, enough(cost))
    return min([g for there, _, g in gaps if not there and g > 1e-9], default=float("inf"))


@mistake(
    "a row is left out",
    "You match without one of the rows. The second-best matching makes all its pairs too.",
)
def whole_row_left_out(cost):
    best = total(cost, hungarian(cost))
    if len(cost) < 2:
        return float("inf")
    left = [torch.cat([cost[:i], cost[i + 1 :]]) for i in range(len(cost))]
    return min(abs(total(each, hungarian(each)) - best) for each in left)


@mistake(
    "swaps of two pairs only",
    "You try all swaps of two pairs. Three pairs can turn in a ring, and with more columns "
    "than rows one pair can move alone.",
)
def square_only_swaps(cost):
    rows, columns = (each.tolist() for each in hungarian(cost))
    found = [float("inf")]
    for a in range(len(rows)):
        for b in range(a):
            swapped = cost[rows[a], columns[b]] + cost[rows[b], columns[a]]
            kept = cost[rows[a], columns[a]] + cost[rows[b], columns[b]]
            found.append((swapped - kept).item())
    return min(found)


MARGIN = Exercise(
    margin,
    matchings,
    points=4,
    minutes=20,
    mistakes=[
        total_of_the_second,
        only_the_dearest,
        all_pairs_differ,
        best_of_each_row,
        swaps_and_moves,
        square_only_swaps,
        too_cheap_a_ban,
        infinite_ban,
        equal_totals_count_once,
        ban_is_paid,
        whole_row_left_out,
    ],
)

# ---------------------------------------------------------------- homework 4. auction


def auctions(generator: torch.Generator) -> Iterator[tuple[Tensor, float]]:
    """Few and many buyers, more goods than buyers, negative costs, small and large ε."""
    yield torch.tensor([[1.0, 2.0], [1.0, 3.0]]).double(), 0.1
    for n, m, epsilon in ((3, 3, 0.01), (6, 6, 0.02), (4, 9, 0.05), (8, 8, 0.3), (1, 2, 0.1)):
        yield uniform(generator, n, m), epsilon
    yield 10 * uniform(generator, 5, 5) - 7, 0.1
    yield 100 * uniform(generator, 7, 10), 2.0


ROUNDS = 20_000


def bidding(
    cost,
    epsilon,
    *,
    raise_by=lambda least, second, epsilon: second - least + epsilon,
    value=lambda cost, prices: cost + prices,
    first=lambda waiting: waiting[0],
    free_owner=True,
):
    """`auction` with parts replaced."""
    n, m = cost.shape
    prices, column_of, row_of = cost.new_zeros(m), [-1] * n, [-1] * m
    for _ in range(ROUNDS):
        waiting = [i for i in range(n) if column_of[i] < 0]
        if not waiting:
            break
        i = first(waiting)
        paid = value(cost[i], prices)
        j = int(paid.argmin())
        prices[j] += raise_by(*paid.topk(2, largest=False).values, epsilon)
        if row_of[j] >= 0 and free_owner:
            column_of[row_of[j]] = -1
        column_of[i], row_of[j] = j, i
    return torch.tensor(column_of, dtype=torch.int64), prices


@mistake(
    "no ε",
    "Your bid leaves the buyer just content, without ε. With equal costs that may go on for ever.",
)
def no_epsilon(cost, epsilon):
    return bidding(cost, epsilon, raise_by=lambda least, second, _: second - least)


@mistake(
    "only ε",
    "Your price rises by ε only. Is your second least cost perhaps that of the same good?",
)
def only_epsilon(cost, epsilon):
    return bidding(cost, epsilon, raise_by=lambda least, second, e: e + 0 * least)


@mistake(
    "the last buyer first",
    "Of those who have nothing you serve the one of highest number. Whose turn is it?",
)
def last_buyer_first(cost, epsilon):
    return bidding(cost, epsilon, first=lambda waiting: waiting[-1])


@mistake(
    "the dearest good",
    "Your buyers look for the largest cost less the price. Here they want to pay little.",
)
def dearest_good(cost, epsilon):
    return bidding(cost, epsilon, value=lambda cost, prices: prices - cost)


@mistake(
    "the former owner does not notice",
    "Two buyers hold the same good at the end. What must happen to the one who had it?",
)
def owner_keeps_it(cost, epsilon):
    return bidding(cost, epsilon, free_owner=False)


@mistake(
    "the difference of costs without prices",
    "Your buyers choose by cost and price, but bid the difference of the costs alone.",
)
def prices_ignored(cost, epsilon):
    """Second and least by cost alone, though the choice is by cost and price."""
    n, m = cost.shape
    prices, column_of, row_of = cost.new_zeros(m), [-1] * n, [-1] * m
    while -1 in column_of:
        i = column_of.index(-1)
        j = int((cost[i] + prices).argmin())
        least, second = cost[i].topk(2, largest=False).values
        prices[j] += second - least + epsilon
        if row_of[j] >= 0:
            column_of[row_of[j]] = -1
        column_of[i], row_of[j] = j, i
    return torch.tensor(column_of, dtype=torch.int64), prices


@mistake(
    "buyers in turn",
    "You serve the buyers in turn. Whoever is outbid has nothing again at once: is "
    "somebody of a lower number waiting when you choose the next one?",
)
def in_turn(cost, epsilon):
    """All buyers in order, those who have something passed over, and again."""
    last = [-1]

    def following(waiting):
        last[0] = next((i for i in waiting if i > last[0]), waiting[0])
        return last[0]

    return bidding(cost, epsilon, first=following)


@mistake(
    "prices with the lesson's sign",
    "Your prices are the lesson's v. Here they rise from 0.",
)
def negative_prices(cost, epsilon):
    column_of, prices = auction(cost, epsilon)
    return column_of, -prices


@mistake(
    "the row of each column",
    "You return who has each column. Asked for is what each row has.",
)
def rows_of_columns(cost, epsilon):
    """The row of each column, −1 where nobody has it."""
    column_of, prices = auction(cost, epsilon)
    row_of = torch.full((cost.shape[1],), -1)
    row_of[column_of] = torch.arange(len(column_of))
    return row_of, prices


AUCTION = Exercise(
    auction,
    auctions,
    points=5,
    minutes=30,
    stretch=True,
    mistakes=[
        no_epsilon,
        only_epsilon,
        last_buyer_first,
        in_turn,
        dearest_good,
        owner_keeps_it,
        prices_ignored,
        negative_prices,
        rows_of_columns,
    ],
)

homework = Homework(
    "Homework 11: Hungarian matching",
    [ALLOWED, BOUND, MARGIN, AUCTION],
    turns=[PROVES, RAISE, SWAP],
)
check, score_board, your_turns = homework.check, homework.score_board, homework.your_turns
