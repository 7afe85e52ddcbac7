"""A small grammar of everyday English for the synthetic demo corpus.

A sentence is a template whose ``{slots}`` are filled with phrases; a phrase may hold slots itself.
Words that sound like another word of the grammar (``their``/``there``, ``to``/``two``) are left
out, so that a transcript can be recovered from the sound.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

MIN_WORDS, MAX_WORDS = 3, 10

#: Slot name -> alternatives, separated by ``|``. ``_s`` is singular, ``_p`` plural.
_SLOTS = {
    "name": "ANNA|TOM|DAVID|MARIA|PETER|SUSAN|OLIVER|HELEN|MARTIN|EMMA|LUCAS|SARAH",
    "relative": "MOTHER|FATHER|SISTER|BROTHER|UNCLE|COUSIN|GRANDMOTHER|HUSBAND",
    "job": "TEACHER|DOCTOR|CAPTAIN|FARMER|BAKER|DRIVER|PAINTER|DANCER|LAWYER|SINGER|SAILOR"
    "|SOLDIER|STUDENT|GARDENER|NEIGHBOUR|PILOT|WAITER|BUTCHER|POLICEMAN|STRANGER",
    "animal_s": "DOG|CAT|PONY|RABBIT|CHICKEN|PIGEON|FOX|DONKEY|MONKEY|TURTLE|SPIDER|GOAT",
    "animal_p": "DOGS|CATS|PONIES|RABBITS|CHICKENS|PIGEONS|FOXES|DONKEYS|MONKEYS|TURTLES"
    "|SPIDERS|GOATS",
    "thing_s": "LETTER|BASKET|CANDLE|LADDER|KETTLE|PICTURE|BOTTLE|HAMMER|TICKET|CAMERA|JACKET"
    "|UMBRELLA|BLANKET|NEWSPAPER|SUITCASE|VIOLIN|MIRROR|BICYCLE|POCKET WATCH|LAMP|BOX|BOOK",
    "thing_p": "LETTERS|BASKETS|CANDLES|LADDERS|KETTLES|PICTURES|BOTTLES|HAMMERS|TICKETS"
    "|JACKETS|BLANKETS|NEWSPAPERS|SUITCASES|MIRRORS|BICYCLES|LAMPS|BOXES|BOOKS",
    "food": "BREAD|CHEESE|HONEY|SOUP|BUTTER|RICE|PEPPER|CHOCOLATE|COFFEE|MILK|LEMON CAKE|PASTA",
    "fruit_p": "APPLES|ORANGES|CHERRIES|LEMONS|TOMATOES|POTATOES|ONIONS|CARROTS|BANANAS|GRAPES",
    "place": "GARDEN|KITCHEN|MARKET|HARBOUR|STATION|LIBRARY|CHURCH|MUSEUM|HOTEL|FOREST|VILLAGE"
    "|BRIDGE|CASTLE|OFFICE|SCHOOL|HOSPITAL|THEATRE|CELLAR|RESTAURANT|FACTORY",
    "city": "LONDON|PARIS|BERLIN|MADRID|DUBLIN|BOSTON|CHICAGO|CAIRO|SYDNEY|OSLO",
    "furniture": "TABLE|SHELF|CUPBOARD|WINDOW|SOFA|PIANO|DESK|CHAIR",
    "colour": "GREEN|YELLOW|PURPLE|BROWN|ORANGE|SILVER|GOLDEN|BLACK|WHITE|PINK",
    "adj": "OLD|LITTLE|HEAVY|BROKEN|BEAUTIFUL|STRANGE|DIRTY|EXPENSIVE|SIMPLE|CURIOUS|FAMOUS"
    "|WOODEN|SMALL|LARGE|UGLY|EMPTY|PRECIOUS|MODERN",
    "person_adj": "YOUNG|HAPPY|ANGRY|CLEVER|QUIET|TIRED|FRIENDLY|NERVOUS|HUNGRY|LAZY|BRAVE"
    "|LONELY|POLITE|PATIENT",
    "weather": "RAIN|SNOW|THUNDER|SUNSHINE|FOG|STORM|WARM WIND",
    "weather_adj": "COLD|WARM|CLOUDY|WINDY|FOGGY|DARK|STORMY|SUNNY",
    "number": "THREE|FIVE|SIX|SEVEN|NINE|TEN|ELEVEN|TWELVE|TWENTY|THIRTY|FIFTY|A HUNDRED",
    "hour": "THREE|FIVE|SIX|SEVEN|NINE|TEN|ELEVEN|TWELVE",
    "day": "MONDAY|TUESDAY|WEDNESDAY|THURSDAY|FRIDAY|SATURDAY|SUNDAY",
    "month": "JANUARY|FEBRUARY|APRIL|JUNE|JULY|AUGUST|SEPTEMBER|OCTOBER|NOVEMBER|DECEMBER",
    "season": "SPRING|SUMMER|AUTUMN|WINTER",
    "past_time": "YESTERDAY|LAST NIGHT|LAST {day}|THIS MORNING|A MONTH AGO|LAST {season}",
    "future_time": "TOMORROW|TONIGHT|NEXT {day}|NEXT {season}|IN {month}|BEFORE {hour} O'CLOCK"
    "|AFTER LUNCH|AFTER DINNER",
    "often": "ALWAYS|NEVER|OFTEN|SOMETIMES|USUALLY|RARELY",
    "manner": "SLOWLY|QUICKLY|CAREFULLY|SUDDENLY|GENTLY|HAPPILY|SILENTLY|PROUDLY",
    "near": "IN|BEHIND|NEAR|OUTSIDE|BESIDE",
    "on": "ON|UNDER|BEHIND|BESIDE|NEAR",
    "take_past": "FOUND|LOST|CARRIED|BROUGHT|SOLD|REPAIRED|PAINTED|DROPPED|OPENED|FORGOT"
    "|BORROWED|WASHED|COLLECTED|STOLE|PACKED|CLEANED",
    "take": "FIND|LOSE|CARRY|BRING|REPAIR|PAINT|DROP|OPEN|FORGET|BORROW|WASH|COLLECT|PACK|CLEAN"
    "|SELL|KEEP|TOUCH",
    "take_ing": "CARRYING|SELLING|REPAIRING|PAINTING|OPENING|WASHING|COLLECTING|PACKING|CLEANING"
    "|HOLDING|LOOKING FOR",
    "move_past": "WALKED|RAN|TRAVELLED|HURRIED|CLIMBED|RETURNED|DROVE",
    "move": "WALK|RUN|TRAVEL|HURRY|RETURN|DRIVE|GO",
    "act_past": "LAUGHED|SLEPT|WAITED|LISTENED|SMILED|DANCED|WHISPERED|WORKED|SANG|STUDIED",
    "act": "LAUGH|SLEEP|WAIT|LISTEN|SMILE|DANCE|WHISPER|WORK|SING|STUDY",
    "act_ing": "LAUGHING|SLEEPING|WAITING|LISTENING|SMILING|DANCING|WORKING|SINGING|STUDYING",
    "eat_past": "ATE|COOKED|ORDERED|TASTED|SHARED|FINISHED",
    "eat": "EAT|COOK|ORDER|TASTE|SHARE|FINISH",
    "like": "LIKE|LOVE|PREFER|ENJOY|HATE",
    "likes": "LIKES|LOVES|PREFERS|ENJOYS|HATES",
    "hobby": "SWIMMING|READING NOVELS|FISHING|CLIMBING MOUNTAINS|PLAYING CHESS|COOKING DINNER"
    "|SINGING SONGS|PLAYING FOOTBALL|RIDING HORSES|WATCHING BIRDS",
    "my": "MY|HIS|OUR|YOUR",
    "who": "{name}|MY {relative}|THE {job}|THE {person_adj} {job}|THE {job} AND {name}"
    "|HIS {relative}|OUR {job}|A {person_adj} {job}",
    "who_s": "{name}|MY {relative}|THE {job}|THE {person_adj} {job}|OUR {job}|YOUR {relative}",
    "they": "WE|THEY|YOU|MY FRIENDS|THE CHILDREN|OUR NEIGHBOURS|MOST PEOPLE|THE OTHERS",
    "what": "THE {thing_s}|A {adj} {thing_s}|{my} {thing_s}|THE {colour} {thing_s}"
    "|{number} {thing_p}|SOME {adj} {thing_p}|THE {adj} {thing_s}|{number} {colour} {thing_p}",
    "meal": "SOME {food}|THE {food}|{number} {fruit_p}|{food} AND {food}|FRESH {fruit_p}"
    "|{food} WITH {fruit_p}",
    "where": "{near} THE {place}|IN {city}|{near} THE OLD {place}|ACROSS THE STREET|AT HOME"
    "|BEYOND THE MOUNTAINS|ALONG THE RIVER|NEAR THE OCEAN",
    "to_where": "TO {city}|TO THE {place}|THROUGH THE {place}|TOWARDS THE {place}|PAST THE {place}"
    "|AROUND THE {place}",
}

#: (template, how the voice ends it, how often it is drawn).
_TEMPLATES = (
    ("{who} {take_past} {what}", ".", 5),
    ("{who} {take_past} {what} {past_time}", ".", 5),
    ("{who} {take_past} {what} {where}", ".", 5),
    ("{who} {move_past} {to_where}", ".", 4),
    ("{who} {manner} {move_past} {to_where} {past_time}", ".", 4),
    ("{past_time} {who} {act_past} {where}", ".", 4),
    ("{who} {eat_past} {meal} {where}", ".", 4),
    ("{who_s} IS {take_ing} {what} {where}", ".", 4),
    ("{who_s} IS {act_ing} {where}", ".", 3),
    ("THE {animal_p} ARE {act_ing} {where}", ".", 3),
    ("THE {colour} {animal_s} {act_past} {on} THE {furniture}", ".", 4),
    ("{number} {animal_p} {move_past} {to_where}", ".", 3),
    ("THERE IS A {adj} {thing_s} {on} THE {furniture}", ".", 4),
    ("THERE ARE {number} {fruit_p} {on} THE {furniture}", ".", 4),
    ("THERE WASN'T ANY {food} {where}", ".", 3),
    ("{who_s} {often} {likes} {hobby}", ".", 3),
    ("{they} {often} {eat} {meal} IN {month}", ".", 3),
    ("{they} {like} {hobby} {where}", ".", 3),
    ("{they} WILL {take} {what} {future_time}", ".", 4),
    ("I'LL {move} {to_where} {future_time}", ".", 3),
    ("WE'LL {eat} {meal} {future_time}", ".", 3),
    ("I DIDN'T {take} {what} {past_time}", ".", 3),
    ("{they} COULDN'T {take} {what}", ".", 3),
    ("{who_s} DOESN'T {like} {hobby}", ".", 3),
    ("I'VE NEVER LIKED {hobby} {where}", ".", 2),
    ("IT WAS VERY {weather_adj} {where} {past_time}", ".", 3),
    ("THE {weather} WILL STOP {future_time}", ".", 2),
    ("IF IT IS {weather_adj} WE'LL {act} {where}", ".", 3),
    ("BECAUSE OF THE {weather} {they} {act_past} {where}", ".", 3),
    ("{who_s} WAS {person_adj} BUT {name} WASN'T", ".", 2),
    ("{who} SAID THAT {they} MUST {take} {what}", ".", 3),
    ("THE {thing_s} COSTS {number} DOLLARS {where}", ".", 3),
    ("THE {job} MET {who_s} ON {day} {where}", ".", 3),
    ("THE TRAIN TO {city} LEAVES AT {hour} O'CLOCK", ".", 2),
    ("{name}'S {thing_s} IS {on} THE {furniture}", ".", 3),
    ("MY {relative} HAS {number} {colour} {thing_p}", ".", 3),
    ("DID {who} {take} {what} {past_time}", "?", 4),
    ("DID YOU {move} {to_where} {past_time}", "?", 3),
    ("CAN YOU {take} {what} {future_time}", "?", 3),
    ("WHERE DID {who_s} {take} {what}", "?", 3),
    ("WHY DO {they} {often} {act} {where}", "?", 3),
    ("WHO {take_past} {what} {past_time}", "?", 3),
    ("HOW MANY {thing_p} DID {who_s} {take}", "?", 3),
    ("WHEN WILL {who_s} {move} {to_where}", "?", 3),
    ("WHAT IS {who_s} {take_ing} {where}", "?", 2),
    ("PLEASE {take} {what} {future_time}", ".", 3),
    ("DON'T {take} {what} {where}", ".", 3),
    ("LET'S {move} {to_where} {future_time}", ".", 3),
    ("NEVER {take} {what} WITHOUT {who_s}", ".", 2),
    ("ASK {who_s} ABOUT {what}", ".", 2),
    ("GIVE {name} {number} {colour} {thing_p}", ".", 2),
    ("WHAT A {person_adj} {job}", "!", 1),
    ("THANK YOU FOR {what} {name}", ".", 2),
)

_CHOICES = {slot: alternatives.split("|") for slot, alternatives in _SLOTS.items()}
_SLOT = re.compile(r"\{(\w+)\}")
_ARTICLE = re.compile(r"\bA(?= [AEIOU])")


@dataclass(frozen=True)
class Sentence:
    """A sentence as transcribed and as read aloud.

    Attributes:
        text: transcript, LibriSpeech style: upper case, apostrophes, no other punctuation.
        mark: punctuation that the voice needs for its intonation.
    """

    text: str
    mark: str

    @property
    def spoken(self) -> str:
        """Lower case, so that the synthesiser reads words and does not spell them out."""
        return self.text.lower() + self.mark


def _expand(text: str, rng: random.Random) -> str:
    while match := _SLOT.search(text):
        filling = rng.choice(_CHOICES[match[1]])
        text = text[: match.start()] + filling + text[match.end() :]
    return _ARTICLE.sub("AN", text)


def _repeats_a_word(words: list[str]) -> bool:
    content = [word for word in words if word not in ("THE", "A", "AN", "TO", "IN", "ON")]
    return len(set(content)) < len(content)


def make_sentences(count: int, seed: int) -> list[Sentence]:
    """Draw ``count`` distinct sentences of `MIN_WORDS` to `MAX_WORDS` words.

    The grammar spans millions of sentences. A longer draw with the same seed starts with the
    shorter one.
    """
    rng = random.Random(seed)
    templates, marks, weights = zip(*_TEMPLATES, strict=True)
    found: dict[str, Sentence] = {}
    while len(found) < count:
        index = rng.choices(range(len(templates)), weights)[0]
        text = _expand(templates[index], rng)
        words = text.split()
        if MIN_WORDS <= len(words) <= MAX_WORDS and not _repeats_a_word(words):
            found.setdefault(text, Sentence(text, marks[index]))
    return list(found.values())
