"""One marker and one colour for each method, in every picture.

Colours are those of Okabe and Ito, told apart by colour-blind readers.
"""

BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY, GREY = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#CC79A7",
    "#56B4E9",
    "#666666",
)

MARKS = {
    "topk": ("s", GREEN),
    "pomt": ("^", PURPLE),
    "tome": ("D", ORANGE),
    "evit": ("P", SKY),
    "zero-tprune": ("X", VERMILION),
    "cropr": ("p", BLUE),
    "random": ("o", GREY),
}
OTHER = ("v", SKY)


def of_method(name: str) -> tuple[str, str]:
    """Marker and colour of a method."""
    return MARKS.get(name, OTHER)
