"""The words of captions, as data: names of articles, colours and people, what else people call them, and templates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

# Article types whose everyday name is not the singular of the table's name.
ARTICLE_NAMES: Mapping[str, str] = {
    "tshirts": "t-shirt", "lounge tshirts": "lounge t-shirt", "scarves": "scarf", "innerwear vests": "vest",
    "night suits": "pyjamas", "baby dolls": "babydoll", "trunk": "trunks", "perfume and body mist": "perfume",
    "necklace and chains": "necklace", "kajal and eyeliner": "eyeliner", "foundation and primer": "foundation",
    "highlighter and blush": "blush", "mask and peel": "face mask", "face wash and cleanser": "face wash",
    "face scrub and exfoliator": "face scrub", "face serum and gel": "face serum", "body wash and scrub": "body wash",
    "compact": "compact powder", "mens grooming kit": "grooming kit", "nail essentials": "nail care kit",
    "free gifts": "free gift", "ipad": "tablet", "key chain": "keychain", "eyeshadow": "eye shadow",
    "ties and cufflinks": "tie and cufflinks set", "hair accessory": "hair accessory", "sarees": "saree",
}  # fmt: skip

# People say these in the plural even for one; matched on the last word.
PLURAL_ONLY = frozenset({
    "jeans", "trousers", "pants", "shorts", "leggings", "jeggings", "capris", "tights", "stockings", "briefs",
    "boxers", "sunglasses", "shoes", "sandals", "heels", "flats", "flops", "booties", "socks", "gloves", "earrings",
    "cufflinks", "suspenders", "laces",
})  # fmt: skip

# What to say when the article type is unknown or left out: by sub-category, then by master category.
GENERAL_NAMES: Mapping[str, str] = {
    "Topwear": "top", "Bottomwear": "bottoms", "Shoes": "shoes", "Bags": "bag", "Watches": "watch",
    "Jewellery": "jewellery", "Eyewear": "eyewear", "Fragrance": "fragrance", "Headwear": "headwear",
    "Apparel": "garment", "Footwear": "footwear", "Accessories": "accessory", "Personal Care": "cosmetic product",
    "Sporting Goods": "sports gear",
}  # fmt: skip
NAMELESS = "product"

COLOUR_NAMES: Mapping[str, str] = {
    "multi": "multicoloured", "off white": "off-white", "skin": "skin-coloured", "grey melange": "grey melange",
}  # fmt: skip

# What people also say. Left: the canonical word of a caption; right: words that may stand in its place.
ARTICLE_SYNONYMS: Mapping[str, tuple[str, ...]] = {
    "t-shirt": ("tee", "t shirt", "tshirt", "tee shirt"),
    "shirt": ("button-up shirt", "button-down shirt"),
    "top": ("blouse",),
    "casual shoes": ("shoes", "sneakers", "trainers", "casual shoe", "shoe"),
    "sports shoes": ("sneakers", "trainers", "running shoes", "sport shoes", "sports shoe", "gym shoes"),
    "formal shoes": ("dress shoes", "leather shoes", "formal shoe", "office shoes"),
    "heels": ("high heels", "heeled shoes", "pumps", "heeled sandals"),
    "flats": ("flat shoes", "flat sandals", "ballet flats"),
    "flip flops": ("flip-flops", "slippers", "thongs"),
    "sandals": ("sandal", "open shoes"),
    "sports sandals": ("sandals", "trekking sandals", "floaters"),
    "booties": ("baby shoes", "ankle boots"),
    "watch": ("wristwatch", "wrist watch", "timepiece"),
    "handbag": ("purse", "bag", "hand bag", "shoulder bag"),
    "clutch": ("clutch bag", "evening bag", "clutch purse"),
    "backpack": ("rucksack", "school bag", "knapsack", "bag"),
    "rucksack": ("backpack", "hiking backpack"),
    "duffel bag": ("duffle bag", "gym bag", "holdall", "sports bag"),
    "laptop bag": ("computer bag", "briefcase"),
    "messenger bag": ("satchel", "shoulder bag"),
    "trolley bag": ("suitcase", "luggage"),
    "waist pouch": ("fanny pack", "bum bag", "belt bag"),
    "mobile pouch": ("phone case", "phone pouch"),
    "wallet": ("billfold", "purse"),
    "sunglasses": ("shades", "sun glasses", "sunnies", "specs", "glasses"),
    "belt": ("waist belt",),
    "cap": ("hat", "baseball cap"),
    "hat": ("cap",),
    "socks": ("hosiery",),
    "tie": ("necktie", "neck tie"),
    "cufflinks": ("cuff links",),
    "suspenders": ("braces",),
    "gloves": ("mittens",),
    "jeans": ("denims", "denim jeans", "denim pants"),
    "trousers": ("pants", "slacks", "trouser"),
    "track pants": ("joggers", "sweatpants", "jogging bottoms", "track pant"),
    "tracksuit": ("track suit", "jogging suit"),
    "shorts": ("short pants",),
    "capris": ("capri pants", "cropped trousers", "three-quarter pants"),
    "leggings": ("legging", "footless tights"),
    "jeggings": ("jean leggings",),
    "tights": ("leggings",),
    "skirt": ("short skirt",),
    "dress": ("frock", "gown"),
    "jumpsuit": ("playsuit", "overall"),
    "romper": ("baby romper", "onesie", "playsuit"),
    "kurta": ("indian tunic", "kurta top"),
    "kurti": ("short kurta", "indian top"),
    "tunic": ("tunic top", "long top"),
    "saree": ("sari", "indian dress"),
    "dupatta": ("indian scarf", "veil"),
    "stole": ("shawl", "wrap"),
    "muffler": ("scarf", "woollen scarf", "winter scarf"),
    "scarf": ("neck scarf",),
    "sweater": ("pullover", "jumper", "knitted sweater"),
    "sweatshirt": ("sweat shirt", "pullover", "jumper"),
    "jacket": ("coat",),
    "rain jacket": ("raincoat", "rain coat"),
    "blazer": ("suit jacket",),
    "waistcoat": ("vest",),
    "shrug": ("cardigan",),
    "perfume": ("fragrance", "scent", "bottle of perfume", "cologne"),
    "deodorant": ("deo", "body spray", "deodorant spray"),
    "lipstick": ("lip colour", "lip color"),
    "lip gloss": ("lipgloss",),
    "nail polish": ("nail varnish", "nail lacquer"),
    "eyeliner": ("kajal", "eye liner", "eye pencil"),
    "foundation": ("make-up foundation",),
    "blush": ("blusher",),
    "earrings": ("ear rings", "ear studs"),
    "necklace": ("chain", "neck chain"),
    "pendant": ("pendant necklace", "necklace"),
    "ring": ("finger ring",),
    "bangle": ("bracelet",),
    "bracelet": ("wrist chain",),
    "jewellery set": ("jewelry set",),
    "umbrella": ("brolly",),
    "water bottle": ("drinking bottle",),
}  # fmt: skip

COLOUR_SYNONYMS: Mapping[str, tuple[str, ...]] = {
    "black": ("jet black",),
    "white": ("snow white", "bright white"),
    "off-white": ("off white", "ivory"),
    "grey": ("gray",),
    "charcoal": ("dark grey", "dark gray"),
    "grey melange": ("melange grey", "heather grey", "light grey"),
    "navy blue": ("navy", "dark blue"),
    "turquoise blue": ("turquoise", "aqua"),
    "teal": ("blue-green", "teal blue"),
    "red": ("crimson", "scarlet", "bright red"),
    "maroon": ("dark red", "wine red"),
    "burgundy": ("wine red", "dark red"),
    "rust": ("rust orange", "rusty"),
    "pink": ("rose pink",),
    "magenta": ("fuchsia", "hot pink"),
    "purple": ("violet",),
    "lavender": ("lilac", "light purple"),
    "mauve": ("dusty purple",),
    "green": ("emerald", "grass green"),
    "olive": ("olive green", "army green"),
    "sea green": ("aqua green",),
    "lime green": ("lime",),
    "fluorescent green": ("neon green",),
    "yellow": ("lemon yellow", "bright yellow"),
    "mustard": ("mustard yellow",),
    "orange": ("tangerine",),
    "peach": ("apricot", "light orange"),
    "brown": ("chocolate brown", "chocolate"),
    "coffee brown": ("coffee", "dark brown"),
    "mushroom brown": ("light brown",),
    "tan": ("tan brown", "light brown", "camel"),
    "beige": ("sand", "light brown"),
    "khaki": ("khaki brown",),
    "cream": ("cream-coloured", "ivory"),
    "skin-coloured": ("nude", "skin"),
    "nude": ("skin-coloured",),
    "gold": ("golden", "gold-toned"),
    "silver": ("silver-toned", "silvery"),
    "steel": ("steel-coloured", "silver"),
    "copper": ("copper-coloured",),
    "bronze": ("bronze-coloured",),
    "metallic": ("shiny",),
    "multicoloured": ("multicolor", "multi-coloured", "colourful", "colorful", "multicolored", "multi"),
}  # fmt: skip

USAGE_SYNONYMS: Mapping[str, tuple[str, ...]] = {
    "casual": ("everyday",), "sports": ("sporty", "athletic", "sport"), "formal": ("dressy", "office", "smart"),
    "ethnic": ("indian", "traditional"), "party": ("festive",),
}  # fmt: skip
SEASON_SYNONYMS: Mapping[str, tuple[str, ...]] = {"fall": ("autumn",)}


@dataclass(frozen=True)
class People:
    """How to say whom an article is for: `dress for women`, `women's dress`, with other words for both."""

    name: str
    owner: str
    other_names: tuple[str, ...]
    other_owners: tuple[str, ...]


PEOPLE: Mapping[str, People] = {
    "men": People("men", "men's", ("guys", "man", "gents", "males"), ("mens", "man's", "male", "gents")),
    "women": People("women", "women's", ("ladies", "woman", "females"), ("womens", "woman's", "ladies", "female")),
    "boys": People("boys", "boys'", ("boy", "kids", "children"), ("boy's", "boys", "kids", "children's")),
    "girls": People("girls", "girls'", ("girl", "kids", "children"), ("girl's", "girls", "kids", "children's")),
    "kids": People("kids", "kids'", ("children", "kid"), ("kids", "children's", "kid's")),
    "unisex": People("men and women", "unisex", ("everyone",), ("unisex",)),
}

SYNONYMS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "article": ARTICLE_SYNONYMS, "colour": COLOUR_SYNONYMS, "usage": USAGE_SYNONYMS, "season": SEASON_SYNONYMS,
}  # fmt: skip


@dataclass(frozen=True)
class TitleWord:
    """A visible property that product titles name.

    word: how captions say it. phrases: how titles say it (lower case). on: the article types or master categories
    where the phrase means this; role: `pattern` stands before the article, `detail` after it, `name` replaces it.
    """

    word: str
    phrases: tuple[str, ...]
    on: tuple[str, ...] = ("Apparel", "Footwear", "Accessories")
    role: str = "pattern"


_SHOES = ("Casual Shoes", "Sports Shoes", "Formal Shoes")
TITLE_WORDS: tuple[TitleWord, ...] = (
    TitleWord("printed", ("printed", "print", "prints"), ("Apparel", "Footwear", "Accessories")),
    TitleWord("striped", ("striped", "stripes", "stripe", "striper"), ("Apparel", "Ties", "Socks", "Scarves")),
    TitleWord("checked", ("checked", "check", "checks", "checkered", "plaid", "gingham"), ("Apparel",)),
    TitleWord("plain", ("solid", "plain"), ("Apparel", "Ties", "Socks")),
    TitleWord("floral", ("floral", "flower", "flowers", "floral print", "flower print"), ("Apparel", "Bags")),
    TitleWord("polka dot", ("polka", "polka dot", "polka dots", "dotted", "dots"), ("Apparel", "Bags")),
    TitleWord("graphic", ("graphic", "graphic print", "graphics"), ("Apparel",)),
    TitleWord("logo", ("logo",), ("Apparel",)),
    TitleWord("leather", ("leather", "leatherette", "leatherite"), ("Footwear", "Accessories", "Jackets")),
    TitleWord("canvas", ("canvas",), ("Footwear", "Bags")),
    TitleWord("denim", ("denim",), ("Apparel",)),
    TitleWord("cotton", ("cotton",), ("Apparel",)),
    TitleWord("silk", ("silk", "silky"), ("Apparel", "Ties", "Scarves", "Stoles")),
    TitleWord("knitted", ("knit", "knitted", "woollen", "wool"), ("Apparel", "Caps", "Mufflers", "Stoles")),
    TitleWord("fleece", ("fleece",), ("Apparel",)),
    TitleWord("embroidered", ("embroidered", "embroidery"), ("Apparel",)),
    TitleWord("washed", ("washed",), ("Apparel",)),
    TitleWord("slim fit", ("slim fit", "slim"), ("Apparel",)),
    TitleWord("skinny", ("skinny", "skinny fit"), ("Apparel",)),
    TitleWord("hooded", ("hood", "hooded", "hoodie", "hoody", "hoodies"), ("Apparel",)),
    TitleWord("sleeveless", ("sleeveless",), ("Apparel",)),
    TitleWord("short-sleeved", ("short sleeve", "short sleeves", "half sleeve", "half sleeves", "s/s"), ("Apparel",)),
    TitleWord("round neck", ("round neck", "crew neck"), ("Apparel",)),
    TitleWord("v-neck", ("v-neck", "v neck"), ("Apparel",)),
    TitleWord("reversible", ("reversible",), ("Belts", "Apparel")),
    TitleWord("digital", ("digital",), ("Watches",)),
    TitleWord("analog", ("analog", "analogue"), ("Watches",)),
    TitleWord("chronograph", ("chronograph", "multi-dial"), ("Watches",)),
    TitleWord("aviator", ("aviator", "aviators"), ("Sunglasses",)),
    TitleWord("rectangular", ("rectangular", "wayfarer"), ("Sunglasses",)),
    TitleWord("oversized", ("oversized",), ("Sunglasses",)),
    TitleWord("wrap", ("wrap", "sporty wrap"), ("Sunglasses",)),
    TitleWord("ankle", ("ankle", "ankle length"), ("Socks",)),
    TitleWord("high-top", ("hi", "high", "high top", "mid"), _SHOES),
    TitleWord("slip-on", ("slip-on", "slip on", "slip-ons"), _SHOES),
    TitleWord("running", ("running", "runner"), ("Sports Shoes",)),
    TitleWord("training", ("training", "trainer"), ("Sports Shoes", "Apparel")),
    TitleWord("tennis", ("tennis",), ("Footwear", "Apparel")),
    TitleWord("football", ("football", "soccer"), ("Footwear", "Apparel")),
    TitleWord("basketball", ("basketball",), ("Footwear", "Apparel")),
    TitleWord("cricket", ("cricket",), ("Footwear", "Apparel")),
    TitleWord("beaded", ("beaded", "beads"), ("Apparel", "Accessories", "Footwear")),
    TitleWord("polo t-shirt", ("polo t-shirt", "polo tshirt", "polo tshirts", "polo t-shirts", "polo tee", "polo neck",
                               "collared"), ("Tshirts",), "name"),
    TitleWord("jersey", ("jersey", "jerseys"), ("Tshirts",), "name"),
    TitleWord("tank top", ("tank top", "tank", "racerback tank"), ("Tshirts", "Tops"), "name"),
    TitleWord("sling bag", ("sling bag", "sling"), ("Handbags",), "name"),
    TitleWord("tote bag", ("tote bag", "tote bags", "tote"), ("Handbags",), "name"),
    TitleWord("wedges", ("wedges", "wedge"), ("Heels", "Sandals"), "name"),
    TitleWord("ballerinas", ("ballerinas", "ballerina"), ("Flats",), "name"),
    TitleWord("cargo shorts", ("cargo", "cargo shorts"), ("Shorts",), "name"),
    TitleWord("chinos", ("chinos", "chino"), ("Trousers",), "name"),
    TitleWord("beanie", ("beanie", "beanies"), ("Caps",), "name"),
    TitleWord("in a pack of 2", ("pack of 2", "pack of two"), role="detail"),
    TitleWord("in a pack of 3", ("pack of 3", "pack of three"), role="detail"),
    TitleWord("with chain", ("with chain",), ("Pendant",), "detail"),
    TitleWord("with dupatta", ("with dupatta",), ("Apparel",), "detail"),
)  # fmt: skip

# Title words for how the surface of a garment looks; of two that a title has, one that says less is left out.
PATTERNS = ("plain", "striped", "checked", "floral", "polka dot", "graphic", "logo", "printed")
LEAST_TELLING = "printed"

# Brand names that contain a title word and would be taken for it.
BRAND_PHRASES = ("denim co", "high street", "classic polo", "polo assn", "forever silk", "trainer spotter")

# Colours in titles: `black & white` names a second one, `white dial` and `black frame` that of a part.
TITLE_COLOURS = (
    "navy blue", "off white", "black", "white", "blue", "navy", "red", "green", "grey", "pink", "purple", "yellow",
    "orange", "brown", "beige", "silver", "golden", "gold", "maroon", "olive", "cream", "teal", "peach", "khaki",
    "tan", "turquoise", "lavender", "charcoal", "copper",
)  # fmt: skip
COLOURED_PARTS: Mapping[str, tuple[str, ...]] = {"dial": ("Watches",), "frame": ("Sunglasses",)}

# A slot without a word vanishes; so does a [group] whose slots are all without one. `a` agrees with the next word.
# The number is how often a template is used, relative to the others.
TEMPLATES: tuple[tuple[str, int], ...] = (
    ("{colour} {pattern} {usage} {article}[ for {people}] {detail}", 5),
    ("{a} {colour} {pattern} {usage} {article}[ for {people}] {detail}", 3),
    ("{colour} {pattern} {owner} {usage} {article} {detail}", 3),
    ("a photo of {a} {owner} {colour} {pattern} {usage} {article} {detail}", 3),
    ("an image of {a} {year} {season} {colour} {pattern} {owner} {usage} {article} {detail}", 3),
    ("{owner} {usage} {article}[, {colour}][, {pattern}][, {detail}][, {season} {year}]", 2),
    ("{article}[, {colour}][, {people}][, {usage}][, {pattern}][, {detail}]", 2),
    ("{people} {colour} {pattern} {article} {detail}", 3),
    ("{owner} {colour} {pattern} {usage} {article} {detail}", 3),
    ("{a} {pattern} {usage} {article}[ in {colour}][ for {people}] {detail}", 2),
    ("a picture of {a} {colour} {pattern} {article}[ for {people}] {detail}", 2),
    ("{season} {year} {usage} {colour} {pattern} {article}[ for {people}] {detail}", 1),
    ("{pattern} {colour} {article} {detail}", 2),
    ("{colour} {article}", 2),
    ("{owner} {article}", 1),
    ("{article}", 1),
)
FULL_TEMPLATE = "{colour} {pattern} {usage} {article}[ for {people}] {detail}"
