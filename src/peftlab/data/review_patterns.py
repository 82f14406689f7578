"""Sentence patterns of the generated reviews, for the target domain and the proxy domain.

Slots: ``scene`` a neutral clause, ``agree`` a clause with the review's polarity, ``against`` one
with the opposite polarity (only where a contrast word marks it as not decisive), ``rumour`` an
opposite opinion that somebody else had, ``verdict`` the clause that decides.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Style:
    """How reviews of one domain are built.

    Attributes:
        shapes: whole reviews; drawn uniformly.
        clauses: opinions on an aspect.
        rumours: what others had said (of the opposite polarity).
        verdicts: keyed by (polarity, strong).
        tails: neutral endings.
    """

    shapes: tuple[str, ...]
    clauses: tuple[str, ...]
    rumours: tuple[str, ...]
    verdicts: dict[tuple[int, bool], tuple[str, ...]]
    tails: tuple[str, ...]


TARGET = Style(
    shapes=(
        "{verdict} , above all because {agree} .",
        "{scene} , and {verdict} .",
        "{scene} . {agree} and {agree} . {verdict} .",
        "{agree} , {agree} , and {opener} {verdict} .",
        "although {against} , {verdict} .",
        "{scene} . although {against} , {verdict} .",
        "{scene} . {against} , but {verdict} .",
        "{scene} . {against} , and still {verdict} .",
        "{opener} , {verdict} , even if {against} .",
        "{scene} ; {rumour} , yet {verdict} .",
        "{rumour} , but i found that {agree} , and {verdict} .",
        "{scene} . while {against} , {agree} , so {verdict} .",
        "{scene} . {tail} . {verdict} .",
        "{opener} , {verdict} : {agree} , and {tail} .",
        "{scene} . {verdict} , though {rumour} .",
        "{verdict} . {tail} .",
        "{scene} . {agree} , {agree} and {agree} .",
        "{scene} ; {opener} {agree} , and {verdict} .",
        "{scene} . {verdict} . {opener} , {agree} .",
        "{scene} , {tail} , and {verdict} because {agree} .",
    ),
    clauses=(
        "the {was_part} {op}",
        "the {was_part} {op}",
        "i found the {part} {op}",
        "the {part} seemed {op} to me",
        "{who} thought that the {was_part} {op}",
        "the {part} struck us as {op}",
        "there was {plenty} in the {part}",
        "even the {part} felt {op}",
        "it was the {part} that seemed {op}",
    ),
    rumours=(
        "{who} had told us that it would be {op}",
        "the newspaper called it {op}",
        "{name} had described the {part} as {op}",
        "people had warned us that the {was_part} {op}",
        "i had expected something {op}",
        "the last {item} of this kind had been {op}",
    ),
    verdicts={
        (+1, True): (
            "it was a truly {strong} {item}",
            "i loved every minute of it",
            "this is one of the best {items} i have known",
            "i cannot praise it enough",
            "nothing could have been better",
            "the {item} as a whole was {op}",
            "the {item} as a whole was {op}",
            "i would call the {item} {op}",
            "we were all overjoyed and nobody wanted it to end",
        ),
        (+1, False): (
            "it was a {mild} {item}",
            "we liked the {item} well enough",
            "i would recommend it to {who}",
            "it was worth the money",
            "i do not regret the time",
            "the {item} as a whole was {op}",
            "the {item} as a whole was {op}",
            "i would call the {item} {op}",
            "i had no reason to complain",
            "we shall probably come back to it",
        ),
        (-1, False): (
            "it was a {mild} {item}",
            "we did not like the {item} very much",
            "i would not recommend it to {who}",
            "it was not worth the money",
            "i regret the time",
            "the {item} as a whole was {op}",
            "the {item} as a whole was {op}",
            "i would call the {item} {op}",
            "i had some reason to complain",
            "we shall probably not come back to it",
        ),
        (-1, True): (
            "it was a truly {strong} {item}",
            "i hated every minute of it",
            "this is one of the worst {items} i have known",
            "i cannot warn people enough",
            "nothing could have been worse",
            "the {item} as a whole was {op}",
            "the {item} as a whole was {op}",
            "i would call the {item} {op}",
            "we were all furious and everybody wanted it to end",
        ),
    },
    tails=(
        "we left after {some} minutes",
        "{name} was there too",
        "{who} stayed at home",
        "i have written about it to {name}",
        "it rained on {day}",
        "we spoke about it {time}",
        "there are {number} more of them in {place}",
        "that was {time}",
        "we took the last train from {place}",
    ),
)
PROXY = Style(
    shapes=(
        "{scene} . to come to the point : {verdict} .",
        "{verdict} ; {agree} . {tail} .",
        "{scene} . granted , {against} . nevertheless {verdict} .",
        "{scene} . {rumour} . i disagree , because {agree} , and {verdict} .",
        "despite the fact that {against} , {verdict} . {tail} .",
        "{agree} . besides , {agree} . {scene} . {verdict} .",
        "{tail} . {scene} , so here is what i think : {agree} and {agree} .",
        "{scene} . {verdict} . what is more , {agree} .",
        "{agree} , which matters to me , and {verdict} . {tail} .",
    ),
    clauses=(
        "its {part} appeared {op}",
        "as to the {part} , i thought it {op}",
        "its {was_part} {op} from the beginning",
        "my notes call the {part} {op}",
    ),
    rumours=(
        "{name} maintains that such {items} are {op}",
        "a card in the window promised something {op}",
        "the advertisement made it look {op}",
    ),
    verdicts={
        (+1, True): (
            "my judgement of this {item} is simple : {strong}",
            "no {item} has ever pleased me more",
            "i love this {item}",
            "this {item} is {op}",
            "i find the {item} {op}",
            "what a {strong} {item} this is",
        ),
        (+1, False): (
            "my judgement of this {item} is simple : {mild}",
            "this {item} has served me well",
            "i like this {item} and recommend it",
            "this {item} is {op}",
            "i find the {item} {op}",
            "the {item} is worth its price",
        ),
        (-1, False): (
            "my judgement of this {item} is simple : {mild}",
            "this {item} has not served me well",
            "i do not like this {item} and do not recommend it",
            "this {item} is {op}",
            "i find the {item} {op}",
            "the {item} is not worth its price",
        ),
        (-1, True): (
            "my judgement of this {item} is simple : {strong}",
            "no {item} has ever angered me more",
            "i hate this {item}",
            "this {item} is {op}",
            "i find the {item} {op}",
            "what a {strong} {item} this is",
        ),
    },
    tails=(
        "so much for {day}",
        "{name} will be told of it",
        "i write this {time}",
        "others may judge for themselves , {who} among them",
        "i counted to {some} twice",
    ),
)
