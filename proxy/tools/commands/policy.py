"""policy.txt, and what follows from it for each command."""

import re

HOWS = ("split", "fan", "local", "session", "blocking", "publish", "denied", "keyed")
WORDS = ("keys", "arity", "since", "group", "summary")
# A command with one of these is never served only because its keys are known.
NOT_KEYED = {"+admin", "+blocking", "+pubsub", "+noscript"}


class Policy:
    """The rules of policy.txt; `rules[command][word]` is the rest of the line."""

    def __init__(self, path):
        self.rules = {}
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if line.strip() and not line.startswith("#"):
                    self.add(line.split(None, 2), f"{path}:{number}")

    def add(self, words, where):
        command, word, text = words[0], words[1], words[2].strip() if len(words) > 2 else ""
        if word not in HOWS + WORDS:
            raise SystemExit(f"{where}: '{word}' is not among {', '.join(HOWS + WORDS)}")
        rule = self.rules.setdefault(command, {})
        if word in rule or word in HOWS and any(how in rule for how in HOWS):
            raise SystemExit(f"{where}: a second rule of this kind for '{command}'")
        rule[word] = text

    def check(self, commands):
        """Every rule must be about a command that some server reports."""
        for command in self.rules:
            container = command.removesuffix("|*")
            if container not in commands:
                raise SystemExit(f"policy.txt: no server reports '{command}'")

    def word(self, command, word):
        return self.rules.get(command, {}).get(word)

    def names(self, command):
        return command in self.rules

    def keys(self, command, specs):
        """Where the keys are, as Rust text; None if the specifications do not say it."""
        return self.word(command, "keys") or keys_of(specs)

    def serve(self, command, flags, keys):
        """What is done with it, as Rust text."""
        rule = self.rules.get(command, {})
        how = next((how for how in HOWS if how in rule), None)
        if how is None and "|" in command:
            rule = self.rules.get(command.split("|")[0] + "|*", {})
            how = next((how for how in HOWS if how in rule), None)
        if how in ("blocking", "publish"):
            return how.capitalize()
        if how in ("split", "fan", "local", "session"):
            return f"{how.capitalize()}({how.capitalize()}::{rule[how]})"
        if how == "denied":
            return f'{how.capitalize()}("{rule[how]}")'
        if keys in (None, "None"):
            return 'Denied("nothing says where its keys are")'
        if how == "keyed" or not NOT_KEYED & set(flags):
            return "Keyed"
        return 'Denied("it is not in the policy of this proxy")'


def keys_of(specs):
    """Key specifications as a variant of Keys; None if they are of a kind that the proxy cannot follow."""
    kinds = [kind(spec) for spec in specs]
    if not kinds:
        return "None"
    if None in kinds:
        return None
    if all(k[0] == "range" for k in kinds):
        return ranges(kinds)
    if len(kinds) == 1 and kinds[0][0] == "numkeys":
        _, at, step = kinds[0]
        return f"Numkeys {{ count_at: {at}, also: 0 }}" if step == 1 else f"NumPairs {{ count_at: {at} }}"
    if len(kinds) == 2 and kinds[0] == ("range", 1, 1, 1) and kinds[1][0] == "numkeys" and kinds[1][2] == 1:
        return f"Numkeys {{ count_at: {kinds[1][1]}, also: 1 }}"
    if kinds == [("streams",)]:
        return "Streams"
    return None


def ranges(kinds):
    """Ranges that follow each other are one."""
    _, first, last, step = kinds[0]
    for _, next_first, next_last, next_step in kinds[1:]:
        if (last, step, next_step) != (next_first - 1, 1, 1):
            return None
        last = next_last
    if first == last:
        return f"One {{ at: {first} }}"
    return f"Range {{ first: {first}, last: {last}, step: {step} }}"


def kind(spec):
    """One specification: ("range", first, last, step), ("numkeys", index, step), ("streams",) or None."""
    spec = dict(zip(spec[::2], spec[1::2]))
    if {"+not_key", "+incomplete"} & set(spec["flags"]):
        return None
    begin, find = ({k: v for k, v in zip(s[::2], s[1::2])} for s in (spec["begin_search"], spec["find_keys"]))
    how, where = begin["type"], dict(zip(begin["spec"][::2], begin["spec"][1::2]))
    until = dict(zip(find["spec"][::2], find["spec"][1::2]))
    if how == "index" and find["type"] == "range" and until["limit"] in (0, 1):
        last = until["lastkey"]
        return "range", where["index"], last if last < 0 else where["index"] + last, until["keystep"]
    if how == "index" and find["type"] == "keynum" and (until["keynumidx"], until["firstkey"]) == (0, 1):
        return ("numkeys", where["index"], until["keystep"]) if until["keystep"] in (1, 2) else None
    if how == "keyword" and where["keyword"] == "STREAMS" and until == {"lastkey": -1, "keystep": 1, "limit": 2}:
        return ("streams",)
    return None


def rust_flags(flags):
    """Flags as the names of constants in `mod flag`."""
    return " | ".join(sorted(re.sub(r"\W", "", flag).upper() for flag in flags)) or "0"
