"""The words of the small world and facts about them: the knowledge that pre-training can teach.

Training families use every fact in one form; held-out families ask for the same facts in forms that pre-training never
shows.
"""

from collections.abc import Mapping

WOMEN = (
    "anna", "ella", "emma", "julia", "laura", "lucy", "maria", "mary", "nora", "rosa", "sara", "sofia",
)  # fmt: skip
MEN = (
    "adam", "ben", "carl", "david", "jack", "john", "luke", "mark", "paul", "peter", "sam", "tom",
)  # fmt: skip
PEOPLE = WOMEN + MEN
PLACES = (
    "kitchen", "garden", "school", "market", "park", "farm", "library", "shop", "office", "station",
    "beach", "hospital", "church", "museum", "forest", "hotel", "theater", "bakery", "bank", "attic",
)  # fmt: skip
COLORS = ("red", "blue", "green", "yellow", "black", "white", "brown", "pink")
DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
NUMBERS = ("one", "two", "three", "four", "five")

KINDS: Mapping[str, tuple[str, ...]] = {
    "tool": ("hammer", "saw", "shovel", "drill", "ladder", "rope", "nail"),
    "fruit": ("apple", "pear", "plum", "cherry", "grape", "melon", "lemon"),
    "animal": ("dog", "horse", "mouse", "cow", "duck", "frog", "lion"),
    "toy": ("doll", "kite", "puzzle", "balloon", "robot", "teddy", "ball"),
    "clothing": ("hat", "coat", "shirt", "scarf", "glove", "sock", "boot"),
    "furniture": ("table", "chair", "sofa", "bed", "shelf", "desk", "lamp"),
    "instrument": ("piano", "drum", "flute", "guitar", "violin", "trumpet", "harp"),
    "vehicle": ("car", "truck", "boat", "bicycle", "train", "sled", "bus"),
    "dish": ("soup", "pizza", "salad", "cake", "bread", "pasta", "rice"),
}
KIND_OF = {thing: kind for kind, things in KINDS.items() for thing in things}
THINGS = tuple(KIND_OF)
# what one person can hand to another
PORTABLE = tuple(
    thing for kind in ("tool", "fruit", "toy", "clothing", "instrument") for thing in KINDS[kind] if thing != "piano"
)

# property -> (the things that have it, the things that have its opposite, the opposite)
PROPERTIES: Mapping[str, tuple[tuple[str, ...], tuple[str, ...], str]] = {
    "heavy": (
        ("stone", "brick", "anvil", "truck", "piano", "horse", "cow", "sofa", "table", "bed", "melon", "train"),
        ("feather", "leaf", "paper", "straw", "balloon", "sock", "grape", "kite", "mouse", "cherry", "glove", "scarf"),
        "light",
    ),
    "big": (
        ("house", "tower", "ship", "truck", "horse", "lion", "sofa", "bus", "piano", "cow", "bridge", "train"),
        ("coin", "button", "needle", "nail", "mouse", "frog", "cherry", "grape", "ring", "seed", "sock", "plum"),
        "small",
    ),
    "hard": (
        ("stone", "brick", "anvil", "hammer", "coin", "nail", "saw", "ring", "drill", "shovel", "key", "needle"),
        ("pillow", "scarf", "bread", "teddy", "sock", "cake", "wool", "butter", "glove", "sponge", "towel", "shirt"),
        "soft",
    ),
    "cold": (
        ("ice", "snow", "frost", "winter", "cellar", "iceberg"),
        ("fire", "oven", "sun", "steam", "summer", "desert"),
        "hot",
    ),
    "fast": (
        ("car", "train", "horse", "rocket", "lion", "plane", "cheetah", "eagle"),
        ("snail", "turtle", "sled", "worm", "donkey", "tractor", "slug", "raft"),
        "slow",
    ),
    "expensive": (
        ("diamond", "crown", "car", "piano", "palace", "yacht", "violin", "ship"),
        ("pencil", "button", "straw", "nail", "sock", "paper", "lemon", "spoon"),
        "cheap",
    ),
}

ANTONYMS = (
    ("heavy", "light"), ("big", "small"), ("hard", "soft"), ("cold", "hot"), ("fast", "slow"), ("expensive", "cheap"),
    ("old", "new"), ("open", "closed"), ("full", "empty"), ("happy", "sad"), ("clean", "dirty"), ("wet", "dry"),
    ("early", "late"), ("near", "far"), ("strong", "weak"), ("loud", "quiet"), ("rich", "poor"), ("up", "down"),
    ("day", "night"), ("win", "lose"), ("buy", "sell"), ("love", "hate"), ("young", "aged"), ("long", "short"),
)  # fmt: skip
SYNONYMS = (
    ("happy", "glad"), ("sad", "unhappy"), ("big", "large"), ("small", "little"), ("fast", "quick"),
    ("begin", "start"), ("end", "finish"), ("angry", "mad"), ("tired", "sleepy"), ("lost", "missing"),
    ("broken", "damaged"), ("late", "delayed"), ("stolen", "robbed"), ("wrong", "incorrect"), ("right", "correct"),
    ("buy", "purchase"), ("get", "receive"), ("speak", "talk"), ("sick", "ill"), ("wash", "clean"),
    ("cancel", "stop"), ("change", "replace"), ("parcel", "package"), ("bill", "invoice"), ("photo", "picture"),
    ("trip", "journey"), ("house", "home"), ("kid", "child"), ("hard", "difficult"), ("cheap", "inexpensive"),
    ("send", "mail"), ("repair", "fix"), ("shut", "close"), ("choose", "pick"), ("gift", "present"),
    ("street", "road"), ("loud", "noisy"), ("clever", "smart"), ("scared", "afraid"), ("near", "close by"),
)  # fmt: skip

# job -> (where, what the person does)
JOBS: Mapping[str, tuple[str, str]] = {
    "teacher": ("school", "teaches children"), "doctor": ("hospital", "helps sick people"),
    "farmer": ("farm", "grows food"), "cook": ("kitchen", "makes meals"), "baker": ("bakery", "bakes bread"),
    "gardener": ("garden", "plants flowers"), "clerk": ("office", "writes letters"), "priest": ("church", "prays"),
    "actor": ("theater", "plays a part"), "seller": ("shop", "sells things"), "banker": ("bank", "counts money"),
    "hunter": ("forest", "follows animals"),
}  # fmt: skip

TOPICS: Mapping[str, tuple[str, ...]] = {
    "sport": ("team", "goal", "coach", "match", "race", "player", "score", "referee", "stadium"),
    "weather": ("rain", "storm", "cloud", "wind", "sunshine", "snow", "fog", "thunder", "rainbow"),
    "money": ("coin", "bank", "loan", "price", "wallet", "salary", "tax", "debt", "cash"),
    "music": ("song", "singer", "piano", "concert", "melody", "drum", "choir", "violin", "band"),
    "health": ("doctor", "pill", "fever", "nurse", "cough", "hospital", "medicine", "pain", "bandage"),
    "food": ("soup", "bread", "dinner", "recipe", "cake", "lunch", "cheese", "sauce", "breakfast"),
    "travel": ("ticket", "train", "hotel", "plane", "suitcase", "map", "passport", "tourist", "airport"),
    "school": ("teacher", "pupil", "lesson", "exam", "homework", "chalk", "class", "essay", "grade"),
    "nature": ("tree", "river", "flower", "forest", "bird", "mountain", "leaf", "lake", "bee"),
    "war": ("soldier", "army", "battle", "weapon", "general", "enemy", "tank", "bomb", "spear"),
}

# meaningless words: real text, too, contains many words to ignore
FILLERS = (
    "report", "given", "suppose", "story", "message", "customer", "statement", "headline", "tweet", "compare", "word",
    "yesterday", "today", "tomorrow", "morning", "evening", "always", "never", "often", "truly", "surely", "perhaps",
    "please", "hello", "dear", "thanks", "sir", "madam", "friend", "team", "service", "question", "answer", "note that",
    "listen", "look", "well", "now", "again", "also", "just", "only", "even", "still", "already", "soon", "later", "so",
    "then", "but", "and", "with", "about", "from", "into", "while", "because", "since", "although", "during", "without",
    "everyone", "nobody", "somebody", "people", "thing", "way", "time", "moment", "year", "week", "hour", "minute",
    "this", "these", "those", "some", "any", "each", "another", "such", "very", "quite", "rather", "really", "almost",
    "put", "took", "made", "came", "kept", "let", "seemed", "turned", "told", "heard", "thought", "found", "wanted",
)  # fmt: skip

GOOD = (
    "wonderful",
    "great",
    "lovely",
    "perfect",
    "excellent",
    "pleasant",
    "delicious",
    "friendly",
    "beautiful",
    "fine",
)
BAD = ("awful", "terrible", "horrible", "boring", "dreadful", "nasty", "disgusting", "rude", "ugly", "poor")

# one word, two meanings: word -> ((what it is, words that show it), (...))
SENSES: Mapping[str, tuple[tuple[str, tuple[str, ...]], tuple[str, tuple[str, ...]]]] = {
    "bat": (
        ("animal", ("cave", "wings", "insect", "dusk", "owl", "darkness")),
        ("tool", ("ball", "player", "game", "pitch", "helmet", "swing")),
    ),
    "bank": (
        ("place", ("loan", "money", "clerk", "account", "vault", "cash")),
        ("nature", ("river", "reeds", "mud", "stream", "fisher", "canoe")),
    ),
    "ring": (
        ("jewel", ("finger", "diamond", "gold", "wedding", "pearl", "bride")),
        ("sound", ("phone", "door", "bell", "alarm", "echo", "call")),
    ),
    "nail": (
        ("tool", ("hammer", "plank", "rust", "wall", "wood", "carpenter")),
        ("body", ("toe", "thumb", "polish", "skin", "hand", "file")),
    ),
    "star": (
        ("sky", ("moon", "night", "planet", "telescope", "comet", "galaxy")),
        ("person", ("fans", "film", "stage", "actor", "interview", "camera")),
    ),
    "trunk": (
        ("plant", ("bark", "branch", "moss", "leaves", "root", "oak")),
        ("box", ("clothes", "lid", "luggage", "lock", "handle", "journey")),
    ),
    "wave": (
        ("water", ("ship", "shore", "surfer", "ocean", "foam", "tide")),
        ("sign", ("greeting", "goodbye", "smile", "crowd", "hello", "queen")),
    ),
    "match": (
        ("fire", ("candle", "flame", "smoke", "spark", "stove", "cigar")),
        ("sport", ("team", "stadium", "referee", "goal", "coach", "score")),
    ),
    "seal": (
        ("animal", ("fish", "iceberg", "whale", "penguin", "fur", "sea")),
        ("mark", ("wax", "envelope", "king", "stamp", "document", "signature")),
    ),
    "spring": (
        ("season", ("april", "winter", "blossom", "easter", "summer", "may")),
        ("metal", ("steel", "watch", "mattress", "coil", "machine", "wire")),
    ),
    "note": (
        ("music", ("flute", "melody", "choir", "singer", "violin", "tune")),
        ("paper", ("pencil", "message", "desk", "ink", "notebook", "pin")),
    ),
    "chest": (
        ("body", ("cough", "breath", "heart", "lungs", "boxer", "ribs")),
        ("box", ("treasure", "pirate", "coins", "island", "chain", "jewels")),
    ),
}

# cause word -> effect word: what goes with what
CAUSES: Mapping[str, str] = {
    "rain": "wet", "fire": "burned", "ice": "slipped", "hunger": "ate", "thirst": "drank", "joke": "laughed",
    "grief": "cried", "noise": "woke", "poison": "died", "frost": "froze", "heat": "melted", "wind": "blew",
    "race": "ran", "dirt": "washed", "fear": "hid", "music": "danced", "fever": "doctor", "exam": "studied",
    "debt": "paid", "gift": "thanked", "theft": "police", "darkness": "lamp", "letter": "replied", "hole": "leaked",
    "knife": "bled", "dust": "sneezed", "boredom": "yawned", "sunshine": "tanned", "victory": "cheered",
    "mistake": "apologized", "weight": "sank", "seed": "grew", "alarm": "escaped", "glue": "stuck",
    "lie": "punished", "work": "tired", "bell": "opened", "cold": "coat", "bait": "caught", "speed": "crashed",
    "flood": "swam", "storm": "sheltered", "key": "unlocked", "soap": "bubbles", "brake": "stopped",
    "luck": "won", "illness": "weak", "milk": "strong",
}  # fmt: skip
