"""What is said of each kind of mistake: sentences that point and do not solve."""

ARGUMENTS = {
    "arguments exchanged": "It behaves as if {about} were exchanged.",
    "always 1": "It behaves as if {about} were always 1.",
    "always 0": "It behaves as if {about} were always 0.",
    "negative": "It behaves as if {about} had the other sign.",
    "inverse": "It behaves as if {about} were its inverse: multiplied where it divides?",
    "squared": "It behaves as if {about} were squared.",
    "halved": "It behaves as if {about} were half as large.",
    "doubled": "It behaves as if {about} were twice as large.",
    "one less": "It behaves as if {about} were smaller by one.",
    "one more": "It behaves as if {about} were larger by one.",
    "inverted": "It behaves as if {about} were true where it is false, and the other way round.",
    "all true": "It behaves as if {about} were true everywhere: it plays no part in your result.",
    "all false": "It behaves as if {about} were false everywhere: it plays no part in your result.",
    "negated argument": "It behaves as if {about} had the other sign.",
    "sigmoid once more": "It looks as if a sigmoid were applied once more than needed.",
    "softmax once more": "It looks as if a softmax were applied once more than needed.",
    "thresholded": "It behaves as if {about} were cut to 0 and 1 first.",
    "all alike": "It behaves as if all entries of {about} were alike: they play no part.",
    "all 0": "It behaves as if {about} were 0: it plays no part in your result.",
    "sizes for corners": "It behaves as if {about} held x, y, width and height, not two corners.",
    "x for y": "It behaves as if x and y of {about} were exchanged.",
    "rows for columns": "It behaves as if rows and columns of {about} were exchanged.",
    "backwards": "It behaves as if {about} stood in reverse order.",
    "only the first": "It behaves as if all of {about} were like the first.",
}
RESULT = {
    "always the same": "Your result is {value} wherever it is wrong, whatever is given.",
    "all numbers alike": "Wherever your result is wrong, all its numbers are {value}.",
    "rows and columns exchanged": "Your result is the right one with rows and columns exchanged.",
    "in reverse order": "Your result is the right one in reverse order.",
    "the sign is turned": "Your result is the right one with the other sign.",
    "one minus": "Your result is one minus the right one.",
    "true for false": "Your result is true where it should be false, and the other way round.",
    "squared result": "Your result is the square of the right one.",
    "root of the result": "Your result is the square root of the right one.",
    "logarithm of the result": "Between your result and the right one lies a logarithm.",
    "inverse of the result": "Your result is 1 divided by the right one.",
    "sorted": "Your result has the right numbers, but sorted.",
    "rounded": "Your result is the right one, rounded.",
    "clamped": "Your result is the right one, cut off at 0 or at 1.",
    "absolute": "Your result is the right one without its sign.",
    "added up": "Your result is the running sum of the right one.",
    "sigmoid once more": "It looks as if a sigmoid were applied once more than needed.",
    "results exchanged": "The right results, but two of them are exchanged.",
    "factor": "Every number is too {large} by the same factor, {number}.",
    "offset": "Every number is too {large} by the same amount, {number}.",
    "sign of some": "The numbers are right, but for some inputs all have the other sign.",
    "factor of each": "Each result is off by a factor of its own, the same for all its numbers: "
    "what is it divided by?",
}
EDITS = {
    "border": "One comparison is strict where it should not be, or the other way round: what "
    "happens exactly at the border?",
    "turned": "One comparison or condition points the other way.",
    "inverted": "A mask or a condition is used the other way round.",
    "sign": "A minus sign is missing.",
    "operator": "One operation is the other of its pair: plus and minus, times and divided by, "
    "“and” and “or”.",
    "operands": "Two sides are exchanged: what is subtracted from what, what divided by what?",
    "accumulated": "Only the last contribution counts where all should be added up.",
    "order": "The order matters, and yours is the reverse.",
    "extreme": "The smallest stands where the largest belongs, or the other way round.",
    "mean": "A sum stands where a mean belongs, or the other way round.",
    "rounding": "It is rounded the other way, down, up or to the nearest.",
    "any": "“Any” stands where “all” belongs, or the other way round.",
    "angle": "Sine and cosine are exchanged.",
    "filled": "It starts from zeros where ones belong, or the other way round.",
    "product": "A sum stands where a product belongs, or the other way round.",
    "activation": "Sigmoid and softmax are exchanged.",
    "logarithm": "A logarithm stands where its inverse belongs, or the other way round.",
    "probability": "A probability, its logarithm, a logit: one stands where another belongs.",
    "power": "A square stands where a root belongs, or the other way round.",
    "transposed": "Rows and columns are exchanged somewhere on the way.",
    "switch": "An option is on where it should be off, or the other way round.",
    "arguments": "The two arguments of one call are exchanged.",
    "condition": "A case is not told apart: which condition is missing, or always true?",
    "statement": "Something is never updated: which of the steps has no effect?",
    "step": "One step is missing: what has to be done to the values before or after?",
    "keyword": "A call needs one option more: what does it do by default?",
    "index": "The wrong part is selected: which entries should count?",
    "term": "One term is missing: compare your formula with the text, part by part.",
    "axis": "Something runs along another axis than it should.",
    "constant": "One constant is another: look at each number, also at axes and at ±1.",
    "name": "One quantity is used where another belongs.",
}
"""Of an edited reference that does what the answer does. The first of them that fits is said."""

LOOK_AT = {
    "border": "its comparison",
    "turned": "its comparison",
    "operator": "its signs and operators",
    "term": "its terms: one may be too many",
    "operands": "which side is which",
    "accumulated": "what is added up",
    "sign": "its signs",
    "inverted": "what is inverted",
    "axis": "its axis",
    "constant": "its numbers",
    "switch": "its options",
    "condition": "this case",
    "step": "its calls: one may be too many",
    "arguments": "the order of the arguments",
    "keyword": "the options of its call",
    "index": "which part it selects",
    "statement": "whether it is needed",
    "order": "the order",
    "transposed": "rows and columns",
    "extreme": "largest and smallest",
    "mean": "sum and mean",
    "rounding": "how it rounds",
    "any": "“any” and “all”",
    "angle": "sine and cosine",
    "filled": "what it starts from",
    "product": "sum and product",
    "activation": "sigmoid and softmax",
    "logarithm": "logarithms",
    "probability": "probabilities and their logarithms",
    "power": "squares and roots",
    "name": "the names that it uses",
}
RANK = {kind: place for place, kind in enumerate(EDITS)}


def of_factor(kind: str, number: float) -> str:
    """The sentence about a constant factor or offset."""
    large = "large" if (number > 1 if kind == "factor" else number > 0) else "small"
    size = number if kind == "factor" and number > 1 else 1 / number if kind == "factor" else number
    return RESULT[kind].format(large=large, number=f"{abs(size):.4g}")


def of_place(line: int, kinds: list[str]) -> str:
    """The sentence about the student's own line, where a small change makes it right."""
    best = min(kinds, key=RANK.__getitem__)
    return f"One small change in your line {line} makes it right: look at {LOOK_AT[best]}."
