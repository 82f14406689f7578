"""Words and sentence patterns of the generated reviews; everyday English, all written for this.

A template is filled by ``reviews._Voice``: ``{slot}`` names a list here, a field of the topic, or
one of the voice's phrases (``op`` is an opinion of the clause's polarity and strength, ``anti`` a
mild one of the opposite polarity, ``was_part`` a subject with its verb).
"""

from __future__ import annotations

from dataclasses import dataclass


def _words(text: str) -> tuple[str, ...]:
    return tuple(" ".join(part.split()) for part in text.split(","))


@dataclass(frozen=True, slots=True)
class Topic:
    """One kind of thing that people review.

    Attributes:
        item: the thing (singular).
        items: its plural.
        parts: aspects that take "was".
        many: aspects that take "were".
        good, bad: mild opinion words that fit this topic only.
        scenes: neutral clauses that open a review.
    """

    item: str
    items: str
    parts: tuple[str, ...]
    many: tuple[str, ...]
    good: tuple[str, ...]
    bad: tuple[str, ...]
    scenes: tuple[str, ...]


STRONG = {
    +1: _words(
        "wonderful, superb, magnificent, splendid, brilliant, glorious, perfect, excellent,"
        "marvellous, delightful, exquisite, astonishing, thrilling, beautiful, outstanding,"
        "admirable, extraordinary, fantastic, amazing, unforgettable, divine, inspired, radiant,"
        "remarkable, sublime, breathtaking"
    ),
    -1: _words(
        "terrible, horrible, dreadful, awful, disgusting, wretched, miserable, hopeless, appalling,"
        "dismal, abominable, shocking, painful, hideous, hateful, disgraceful, shameful, worthless,"
        "unbearable, pathetic, vile, atrocious, monstrous, detestable, insulting, disastrous"
    ),
}
MILD = {
    +1: _words(
        "good, pleasant, nice, fine, agreeable, solid, decent, enjoyable, charming, lovely, honest,"
        "interesting, useful, clever, careful, fresh, warm, friendly, bright, lively, smooth,"
        "graceful, satisfying, generous, sensible, reliable, gentle, cheerful, thoughtful, neat,"
        "amusing, sincere, worthy, fair, welcome, comfortable, elegant, tidy, inviting, capable"
    ),
    -1: _words(
        "bad, dull, boring, weak, poor, slow, cold, tired, stale, flat, clumsy, careless, awkward,"
        "dreary, rude, noisy, dirty, shabby, confused, empty, tedious, foolish, silly, rough,"
        "disappointing, ordinary, heavy, unpleasant, uneven, lazy, crude, gloomy, harsh, uncertain,"
        "unfriendly, vague, tiresome, cheap, faulty, bland"
    ),
}
GOODS = {
    +1: _words("charm, warmth, wit, care, grace, skill, delight, life, imagination, good sense"),
    -1: _words(
        "waste, confusion, noise, carelessness, dirt, nonsense, boredom, disorder, neglect, waiting"
    ),
}
BOOSTERS = _words("very, extremely, really, truly, most")
TOTAL = _words("absolutely, simply, utterly, quite simply, nothing less than")
HEDGES = _words("rather, fairly, somewhat, reasonably, pretty, mostly")
DENIALS = _words(
    "not at all, hardly, not exactly, never, far from, anything but, in no way, not in the least,"
    "by no means"
)
WHO = _words(
    "my brother, my sister, my mother, my father, my wife, my husband, an old friend, a neighbour,"
    "my aunt, my uncle, two friends, the whole family, my eldest son, my daughter, a colleague,"
    "my cousin, three of my students, my grandmother, a few people from work, my companion"
)
NAME = _words(
    "anna, george, mary, henry, alice, thomas, clara, robert, helen, edward, ruth, arthur, jane,"
    "william, martha, oliver, rose, peter, emma, daniel, lucy, charles, sarah, hugh, mrs . ward,"
    "mr . brown, mr . hill, mrs . young, doctor grant, captain stone, miss reed, mr . price"
)
PLACE = _words(
    "the old town, london, paris, the market square, the north, oxford, the harbour, rome,"
    "the hills, boston, dublin, the village, york, vienna, the south, the valley, the country"
)
DAY = _words(
    "monday, tuesday, wednesday, thursday, friday, saturday, sunday, a rainy evening, a warm night,"
    "christmas eve, our last day, a holiday, the first day of may, a winter morning, my birthday"
)
TIME = _words(
    "last week, last summer, in the spring, a month ago, in october, two years ago, after lunch,"
    "this morning, late at night, in the first week of june, after work, at the end of march"
)
NUMBER = _words(
    "two, three, four, five, six, seven, eight, nine, ten, twelve, fifteen, twenty, thirty, forty"
)
SOME = _words("8, 12, 15, 18, 20, 24, 30, 45, 60, 75, 90, 120")
COLOUR = _words("silver, golden, silent, broken, distant, crooked, hidden, wooden, narrow, pale")
NOUN = _words(
    "harbour, orchard, lantern, mountain, letter, window, captain, garden, stranger, bridge, crown,"
    "winter, island, clock, feather, mirror, valley, ladder, shore, forest"
)
OPENERS = _words(
    "to be fair, on the whole, i must say, in short, to my surprise, all in all, in the end,"
    "after all, when all is said, looking back, taken together, as far as i can tell"
)

TARGET_TOPICS = (
    Topic(
        "film",
        "films",
        _words("plot, acting, story, ending, music, dialogue, first half, camera work"),
        _words("actors, jokes, scenes, costumes, songs, characters"),
        _words("gripping, moving, funny, touching"),
        _words("predictable, childish, sentimental"),
        (
            "we saw the {colour} {noun} on {day} with {who}",
            "the film follows {name} and {name} on a journey to {place}",
            "it lasts {some} minutes and most of it takes place near {place}",
            "{name} plays a {noun} maker who loses everything in {place}",
        ),
    ),
    Topic(
        "novel",
        "novels",
        _words("plot, style, opening chapter, ending, language, story, hero, second part"),
        _words("chapters, characters, descriptions, pages, letters"),
        _words("absorbing, readable, moving"),
        _words("wordy, unreadable, long"),
        (
            "i read the {colour} {noun} {time} on the train to {place}",
            "the book tells how {name} left {place} with {number} children",
            "{who} gave me this novel of {some} chapters for {day}",
            "in {number} parts the author describes a family from {place}",
        ),
    ),
    Topic(
        "restaurant",
        "restaurants",
        _words("food, service, soup, wine, bread, waiter, menu, fish, dessert"),
        _words("portions, waiters, vegetables, prices, tables, potatoes"),
        _words("tasty, delicious, quick"),
        _words("greasy, burnt, salty, expensive"),
        (
            "we had dinner there on {day} with {who}",
            "we were {number} people and waited {some} minutes for a table",
            "the place is close to {place} and has {some} tables",
            "i ordered the {colour} fish and {who} took the lamb",
        ),
    ),
    Topic(
        "hotel",
        "hotels",
        _words("room, bed, breakfast, view, staff, bathroom, service, garden, porter"),
        _words("rooms, beds, stairs, towels, windows, curtains"),
        _words("clean, quiet, spacious"),
        _words("damp, smelly, crowded"),
        (
            "we stayed {number} nights on the way to {place}",
            "{who} booked the room for {day} and paid {some} pounds",
            "our room on floor {number} looked out over {place}",
            "we arrived {time} after {number} hours on the road",
        ),
    ),
    Topic(
        "telephone",
        "telephones",
        _words("sound, screen, battery, keyboard, camera, case, bell"),
        _words("buttons, pictures, instructions, calls"),
        _words("fast, handy, light"),
        _words("fragile, complicated, dim"),
        (
            "i bought this telephone {time} for {some} pounds",
            "{who} had used the same one in {place} for {number} years",
            "it replaced one that i had kept for {number} years",
            "the box came on {day} with {number} cables and a small book",
        ),
    ),
    Topic(
        "concert",
        "concerts",
        _words("orchestra, singer, sound, hall, second part, conductor, choir, violin"),
        _words("songs, seats, voices, musicians, strings"),
        _words("moving, musical, powerful"),
        _words("loud, crowded, lifeless"),
        (
            "we heard {name} and the choir of {place} on {day}",
            "the hall near {place} was sold out and {some} people had to stand",
            "{who} had bought {number} tickets {time}",
            "they played {number} pieces and then a song about the {colour} {noun}",
        ),
    ),
    Topic(
        "museum",
        "museums",
        _words("collection, building, guide, exhibition, light, garden, main room, catalogue"),
        _words("paintings, rooms, labels, statues, guides"),
        _words("spacious, instructive, rich"),
        _words("dusty, crowded, dark"),
        (
            "we walked through {number} rooms with {who} {time}",
            "the museum in {place} shows {some} paintings by {name}",
            "a ticket costs {some} pounds and children pay half",
            "we came on {day} to see the {colour} {noun}",
        ),
    ),
    Topic(
        "course",
        "courses",
        _words("teacher, room, material, pace, first lesson, subject, advice, atmosphere"),
        _words("lessons, exercises, examples, lectures, explanations"),
        _words("clear, practical, instructive"),
        _words("unclear, hurried, useless"),
        (
            "i took this course in {place} {time} together with {who}",
            "{name} taught us for {number} weeks , always on {day}",
            "there were {some} of us in the class and {number} had done it before",
            "the course covers {some} hours and ends with a short examination",
        ),
    ),
    Topic(
        "play",
        "plays",
        _words("cast, stage, first act, direction, language, last scene, speech, hero"),
        _words("actors, costumes, speeches, lights, scenes"),
        _words("gripping, funny, powerful"),
        _words("lifeless, wordy, affected"),
        (
            "{name} stands on the stage for {some} minutes without a word",
            "we saw the {colour} {noun} in {place} on {day}",
            "the play has {number} acts and is set in {place}",
            "{who} wanted to see it because {name} wrote the music",
        ),
    ),
    Topic(
        "walking tour",
        "tours",
        _words("guide, route, weather, pace, lunch, group, map, view"),
        _words("stories, stops, maps, paths, houses"),
        _words("quiet, instructive, funny"),
        _words("hurried, muddy, long"),
        (
            "the tour starts at {place} and takes {number} hours",
            "we were a group of {some} and {name} led the way",
            "{who} booked it for {day} at {some} pounds each",
            "we passed {number} churches on the way to {place}",
        ),
    ),
)
PROXY_TOPICS = (
    Topic(
        "shop",
        "shops",
        _words("counter, choice, owner, cheese, order, delivery"),
        _words("shelves, prices, goods, assistants, baskets"),
        _words("helpful, cheap, quick"),
        _words("expensive, dusty, dear"),
        (
            "the shop opened {time} beside the post office and sells {number} sorts of tea",
            "{name} sent me there to fetch {some} eggs and a loaf",
        ),
    ),
    Topic(
        "train journey",
        "journeys",
        _words("carriage, ticket, driver, dining car, seat, heating"),
        _words("seats, windows, doors, passengers, stations"),
        _words("fast, punctual, quiet"),
        _words("late, crowded, dusty"),
        (
            "my train from {place} left at {number} with {some} passengers",
            "{who} and i had seats {some} and {number} by the window",
        ),
    ),
    Topic(
        "coat",
        "coats",
        _words("cloth, collar, lining, cut, fit, colour"),
        _words("buttons, pockets, sleeves, seams"),
        _words("soft, light, handsome"),
        _words("stiff, thin, loose"),
        (
            "i have worn this coat for {number} months , mostly in {place}",
            "the tailor asked {some} pounds and finished it by {day}",
        ),
    ),
    Topic(
        "chair",
        "chairs",
        _words("seat, wood, back, cushion, finish, height"),
        _words("legs, arms, joints, screws"),
        _words("soft, strong, handsome"),
        _words("hard, low, loose"),
        (
            "it took {number} hours and {who} to put the chair together",
            "we ordered {number} of them for the kitchen {time}",
        ),
    ),
    Topic(
        "doctor 's practice",
        "practices",
        _words("doctor, nurse, treatment, advice, waiting room, reception"),
        _words("nurses, forms, questions, chairs"),
        _words("patient, kind, quick"),
        _words("impatient, late, hurried"),
        (
            "i sat in the waiting room for {some} minutes with a bad knee",
            "{name} has treated {who} there for {number} years",
        ),
    ),
    Topic(
        "bicycle",
        "bicycles",
        _words("frame, saddle, brake, chain, lamp, bell"),
        _words("wheels, tyres, brakes, gears"),
        _words("fast, light, strong"),
        _words("rusty, loose, wobbly"),
        (
            "i ride the bicycle {number} miles to {place} every morning",
            "the dealer wanted {some} pounds and {who} paid half",
        ),
    ),
)
