#!/usr/bin/python3
"""A second reader of stores, written from DESIGN.md section 4 and nothing else.

    reader.py STORE list                        one line an image: id, states, bytes, created, host, disk, tags, comment
    reader.py STORE restore IMAGE-PREFIX OUT    writes the image to OUT, which must not exist; holes where zeros are
    reader.py STORE check                       every frame, pack, blob and table

Promises: never writes in the store; a byte that it hands out was hashed; damage is an error that names the place.
Knows nothing of the Rust code. Needs Python 3.11 and zstandard. Exit code: 0 well, 1 damage, 2 usage or a newer format.
"""
import json, os, re, struct, sys
from datetime import datetime
import pure_blake3
try:
    import zstandard
except ImportError:
    sys.exit("python3 has no zstandard: apt-get install python3-zstandard")
try:
    from blake3 import blake3 as native
except ImportError:
    native = None

FRAME_BODY_MAX, CHUNK_MAX, PACK_MAX = 256 << 20, 64 << 20, 256 << 20
DATA, TABLE = 0, 1
CHUNK, ZEROS, BAD = 0, 1, 2
HEX64, HEX32 = "[0-9a-f]{64}", "[0-9a-f]{32}"
NAMES = re.compile(r"config(\.copy)?|packs/([0-9a-f]{2})/\2[0-9a-f]{62}|(condemned|moves|sessions)/" + HEX32 +
                   "|images/" + HEX64 + r"(\.(ok|forgotten|protected))?|(index|tmp)/.*")

class Damaged(Exception):
    """The bytes are not what section 4 asks for."""

class Unsupported(Exception):
    """The bytes may be right, but this reader is too old for them."""

def need(condition, place, what):
    if not condition:
        raise Damaged(f"{place}: {what}")

TABLE_CONTEXT = "cas 2026-11 table chunk"

def blake3(data):
    return native(data).digest() if native else pure_blake3.blake3(data)

def blake3_table(data):
    if native:
        return native(data, derive_key_context=TABLE_CONTEXT).digest()
    return pure_blake3.blake3(data, TABLE_CONTEXT)

# 4.2 Frame, 4.4 blobs

def read_whole(path, limit):
    need(os.path.getsize(path) <= limit, path, f"more than {limit} bytes")
    with open(path, "rb") as file:
        return file.read()

def open_frame(path, kind, data):
    need(len(data) >= 48, path, f"a frame has at least 48 bytes, found {len(data)}")
    magic, found, length, reserved = struct.unpack_from("<4s4sII", data)
    need((magic, found) == (b"CAS1", kind), path, f"offset 0: should be CAS1 and {kind}, found {magic} and {found}")
    need(length <= FRAME_BODY_MAX and len(data) == length + 48, path, f"body length {length} in {len(data)} bytes")
    need(reserved == 0, path, "offset 12: reserved bytes are not zero")
    need(blake3(data[:-32]) == data[-32:], path, "hash of the frame is wrong")
    return data[16:-32]

def need_members(path, value, members):
    """An object with these members (name to type); unknown ones are ignored."""
    need(isinstance(value, dict), path, "not a JSON object")
    for name, kinds in members.items():
        good = name in value and isinstance(value[name], kinds) and not isinstance(value[name], bool)
        need(good and (kinds != int or value[name] >= 0), path, f"member {name} is missing or has a wrong type")
        if name in ("created", "time"):
            try:
                datetime.fromisoformat(value[name])
            except ValueError as error:
                raise Damaged(f"{path}: {name} is not RFC 3339: {error}") from error
    return value

def parse(path, body, members):
    try:
        return need_members(path, json.loads(body.decode("utf-8")), members)
    except ValueError as error:
        raise Damaged(f"{path}: body is not JSON: {error}") from error

def record(path, kind, members):
    return parse(path, open_frame(path, kind, read_whole(path, FRAME_BODY_MAX + 48)), members)

def open_blob(place, blob, plain_length):
    need(blob and plain_length <= CHUNK_MAX, place, f"{len(blob)} bytes stored, {plain_length} plain")
    plain = blob[1:]
    if blob[0] == 1:
        try:
            stated = zstandard.get_frame_parameters(plain).content_size
            need(stated in (plain_length, zstandard.CONTENTSIZE_UNKNOWN), place, f"zstd frame states {stated} bytes")
            frame = zstandard.ZstdDecompressor().decompressobj()
            plain = frame.decompress(plain)
            need(not frame.unused_data, place, "bytes behind the zstd frame")
        except zstandard.ZstdError as error:
            raise Damaged(f"{place}: {error}") from error
    elif blob[0] != 0:
        raise Unsupported(f"{place}: encoding {blob[0]}")
    need(len(plain) == plain_length, place, f"plain length should be {plain_length}, found {len(plain)}")
    return plain

def open_chunk(place, blob, plain_length, chunk, kind):
    plain = open_blob(place, blob, plain_length)
    need((blake3_table if kind == TABLE else blake3)(plain) == chunk, place, f"does not hash to chunk {chunk.hex()}")
    return plain

# 4.5 Pack

def read_trailer(path):
    """[(chunk, offset, stored, plain, kind)] of a pack, from its header, trailer and footer."""
    size = os.path.getsize(path)
    need(80 <= size <= PACK_MAX, path, f"{size} bytes cannot be a pack")
    with open(path, "rb") as file:
        header = file.read(32)
        file.seek(size - 48)
        length, count, digest, magic = struct.unpack("<II32s8s", file.read(48))
        need(magic == b"CASPEND1", path, f"offset {size - 8:#x}: magic should be CASPEND1, found {magic}")
        need(length == 44 * count and length <= size - 80, path, f"{count} entries in a trailer of {length} bytes")
        file.seek(size - 48 - length)
        trailer = file.read(length)
    need(header[:8] == b"CASPACK1", path, f"offset 0: magic should be CASPACK1, found {header[:8]}")
    need(header[8:16] == bytes(8), path, "offset 8: reserved bytes are not zero")
    need(blake3(header + trailer) == digest, path, "hash of header and trailer is wrong")
    entries, offset = [], 32
    for chunk, stored, plain, kind, reserved in struct.iter_unpack("<32sIIB3s", trailer):
        place = f"{path}, trailer entry {len(entries)}"
        need(kind in (DATA, TABLE) and reserved == bytes(3), place, f"kind {kind}, reserved {reserved}")
        need(stored >= 1 and plain <= CHUNK_MAX, place, f"stored length {stored}, plain length {plain}")
        need(not entries or kind == entries[0][4], place, "a pack holds blobs of one kind")
        entries.append((chunk, offset, stored, plain, kind))
        offset += stored
    need(offset == size - 48 - length, path, f"blobs end at {offset:#x}, trailer begins at {size - 48 - length:#x}")
    return entries

# 4.6 Tables

class Table:
    """A decoded table: level, bytes, packs, and entries (kind, bytes, chunk, pack, offset, stored, plain)."""

    def __init__(self, place, data, level, covered):
        need(len(data) >= 24, place, "a table has at least 24 bytes")
        self.level, reserved, p, n, reserved2, self.bytes = struct.unpack_from("<B3sIIIQ", data)
        need(self.level == level, place, f"level should be {level}, found {self.level}")
        need(reserved == bytes(3) and reserved2 == 0, place, "reserved bytes are not zero")
        need(self.bytes == covered, place, f"covers {self.bytes} bytes, should be {covered}")
        self.place, at = place, 24 + 32 * p
        kinds = data[at:at + n]
        m = kinds.count(CHUNK)
        need(len(data) == at + 9 * n + (48 if level else 44) * m, place, f"{len(data)} bytes, {p} packs, {n} entries")
        self.packs = [data[i:i + 32] for i in range(24, at, 32)]
        need(all(a < b for a, b in zip(self.packs, self.packs[1:])), place, "packs are not sorted, or are doubled")
        covers = struct.unpack_from(f"<{n}Q", data, at + n)
        ids, words = at + 9 * n, at + 9 * n + 32 * m
        columns = [struct.unpack_from(f"<{m}I", data, words + 4 * m * i) for i in range(4 if level else 3)]
        columns += [] if level else [[size for kind, size in zip(kinds, covers) if kind == CHUNK]]
        self.entries, i, end = [], 0, 0
        for kind, size in zip(kinds, covers):
            here = f"{place}, entry {len(self.entries)}"
            need(kind in (CHUNK, ZEROS) or kind == BAD and level == 0, here, f"kind {kind}")
            need(size > 0, here, "covers nothing")
            need(kind != ZEROS or not self.entries or self.entries[-1][0] != ZEROS, here, "zeros after zeros")
            if kind != CHUNK:
                self.entries.append((kind, size, None, None, 0, 0, 0))
                continue
            pack, difference, stored, plain = (column[i] for column in columns)
            need(pack < p, here, f"pack {pack} of {p}")
            begin = (end + difference) & 0xFFFFFFFF
            end = begin + stored
            chunk = data[ids + 32 * i:ids + 32 * i + 32]
            self.entries.append((kind, size, chunk, self.packs[pack], begin, stored, plain))
            i += 1
        need(sum(covers) == self.bytes, place, f"entries cover {sum(covers)} bytes, the header says {self.bytes}")
        need(any(k != ZEROS for k in kinds), place, "a table of nothing but zeros is not written")
    def check_packs(self, children):
        wanted = {e[3] for e in self.entries if e[0] == CHUNK}
        if self.level in (1, 2):
            wanted = wanted.union(*(child.packs for child in children))
        need(set(self.packs) == wanted, self.place, f"lists {len(self.packs)} packs, its entries need {len(wanted)}")

# 4.1, 4.3, 4.7, 4.8: a store

CONFIG = {"format": int, "store_id": str, "created": str, "features": dict, "rule": str, "zero_run_bytes": int,
          "segment_bytes": int, "leaf_bytes": int, "fan_out": int}
MANIFEST = {"format": int, "created": str, "host": str, "disk": str, "tags": list, "comment": str, "bytes": int,
            "root": (dict, type(None)), "parent": (str, type(None)), "supersedes": (str, type(None)),
            "statistics": dict, "source": object}
ROOT_MEMBERS = {"level": int, "id": str, "pack": str, "offset": int, "stored_bytes": int, "plain_bytes": int}
STATISTICS = dict.fromkeys("chunks data_bytes zero_bytes bad_bytes new_chunks new_bytes new_stored_bytes".split(), int)
MARKS = ("ok", "forgotten", "protected")
RECORDS = {"condemned": (b"COND", {"session": str, "time": str, "packs": list, "reason": str}),
           "moves": (b"MOVE", {"session": str, "time": str, "moved": dict}),
           "sessions": (b"SESS", {"what": str, "host": str, "pid": int, "boot_id": str, "time": str})}

def need_id(place, text, pattern=HEX64):
    need(isinstance(text, str) and re.fullmatch(pattern, text), place, f"{text!r} is not an id")
    return bytes.fromhex(text)

class Store:
    def __init__(self, path):
        self.path, self.findings, self.trailers, self.moves = path, [], {}, {}
        self.config = self.read_config()
        self.packs = {bytes.fromhex(name): f"{path}/packs/{two}/{name}" for two in self.names("packs")
                      for name in self.names(f"packs/{two}") if re.fullmatch(HEX64, name)}
        for name in self.names("moves"):  # I9: a damaged record costs time only; `check` says it
            self.gather(self.read_moves, name)
    def names(self, folder):
        full = os.path.join(self.path, folder)
        return sorted(os.listdir(full)) if os.path.isdir(full) else []
    def gather(self, work, *arguments):
        """The result, or None and a finding: damage in one place does not hide the next."""
        try:
            return work(*arguments)
        except (Damaged, OSError) as damage:
            self.findings.append(str(damage))

    def read_config(self):
        read = [self.gather(record, f"{self.path}/{name}", b"CONF", CONFIG) for name in ("config", "config.copy")]
        found = [config for config in read if config]
        need(found, self.path, f"no config can be read: {self.findings}")
        if found[0] != found[-1]:
            self.findings.append(f"{self.path}: config and config.copy differ")
        features = found[0]["features"].get("incompatible", [])
        if found[0]["format"] != 1 or features:
            raise Unsupported(f"{self.path}/config: format {found[0]['format']}, features {features}")
        need_id(f"{self.path}/config: store_id", found[0]["store_id"], HEX32)
        return found[0]

    def read_moves(self, name):
        path = f"{self.path}/moves/{name}"
        for old, new in record(path, *RECORDS["moves"])["moved"].items():
            need(isinstance(new, list), path, f"{old}: not a list")
            self.moves.setdefault(need_id(path, old), []).extend(need_id(path, pack) for pack in new)
    def images(self):
        return [name for name in self.names("images") if re.fullmatch(HEX64, name)]
    def has_mark(self, image, mark):
        """Damage decides for the side that loses nothing (4.8)."""
        path = f"{self.path}/images/{image}.{mark}"
        return os.path.lexists(path) and (bool(self.gather(self.read_mark, path, mark, image)) or mark == "protected")
    def read_mark(self, path, mark, image):
        body = record(path, b"MARK", {"mark": str, "image": str, "time": str})
        need((body["mark"], body["image"]) == (mark, image), path, f"name and body disagree: {body}")
        return body
    def manifest(self, image):
        path = f"{self.path}/images/{image}"
        data = read_whole(path, FRAME_BODY_MAX + 48)
        body = open_frame(path, b"IMAG", data)
        need(blake3(data).hex() == image, path, "does not hash to its name")
        need(len(body) >= 5, path, "body has no blob")
        manifest = parse(path, open_blob(path, body[4:], struct.unpack_from("<I", body)[0]), MANIFEST)
        if manifest["format"] != 1:
            raise Unsupported(f"{path}: format {manifest['format']}")
        need_members(f"{path}: statistics", manifest["statistics"], STATISTICS)
        for other in (manifest["parent"], manifest["supersedes"]):
            need(other is None or need_id(path, other), path, "not an image")
        return manifest
    def trailer(self, pack):
        if pack not in self.trailers:
            self.trailers[pack] = self.gather(read_trailer, self.packs[pack]) or []
        return self.trailers[pack]

    def places(self, chunk, kind, hint):
        """(pack, offset, stored): the hint, then by way of `moves`, then all packs (4.6)."""
        yield hint
        reached, todo = set(), [hint[0]]
        while todo:
            pack = todo.pop()
            if pack not in reached:
                reached.add(pack)
                todo += self.moves.get(pack, [])
        for pack in sorted(reached & self.packs.keys()) + sorted(self.packs.keys() - reached):
            yield from ((pack, e[1], e[2]) for e in self.trailer(pack) if (e[0], e[4]) == (chunk, kind))

    def fetch(self, who, chunk, kind, hint, plain_length):
        tried = []
        for pack, offset, stored in self.places(chunk, kind, hint):
            place = f"pack {pack.hex()}, offset {offset:#x}"
            try:
                return open_chunk(place, self.read_range(place, pack, offset, stored), plain_length, chunk, kind)
            except (Damaged, Unsupported, OSError) as damage:  # a stale hint can lead to any byte
                tried.append(str(damage))
        raise Damaged(f"{who}: chunk {chunk.hex()} is nowhere: {'; '.join(tried)}")

    def read_range(self, place, pack, offset, length):
        need(pack in self.packs, place, "no such pack")
        need(length <= PACK_MAX, place, f"stored length {length}")
        with open(self.packs[pack], "rb") as file:
            file.seek(offset)
            data = file.read(length)
        need(len(data) == length, place, f"read {len(data)} of {length} bytes")
        return data

    def runs(self, image, manifest):
        """(offset, entry) of every run of the device, in order; every table on the way is checked."""
        root, place = manifest["root"], f"image {image}"
        if root is None:
            yield 0, (ZEROS, manifest["bytes"], None, None, 0, 0, 0)
            return
        need_members(f"{place}, root", root, ROOT_MEMBERS)
        entry = (CHUNK, manifest["bytes"], need_id(place, root["id"]), need_id(place, root["pack"]), root["offset"],
                 root["stored_bytes"], root["plain_bytes"])
        yield from self.walk(place, entry, root["level"], 0, 0, [])

    def walk(self, who, entry, level, at, segment, siblings):
        _, size, chunk, *hint, plain = entry
        data = self.fetch(f"{who} at {at:#x}", chunk, TABLE, hint, plain)
        table = Table(f"{who}, table {chunk.hex()} at {at:#x}", data, level, size)
        siblings.append(table)
        if level == 0:
            step, first, last = self.config["leaf_bytes"], at - segment, at - segment + size - table.entries[-1][1]
            need(first // step == last // step, table.place, f"runs start at {first} and {last}: two steps")
        segment = at if level == 1 else segment
        need(level != 1 or size <= self.config["segment_bytes"], table.place, f"a segment of {size} bytes")
        need(level < 2 or len(table.entries) <= self.config["fan_out"], table.place, f"{len(table.entries)} entries")
        children = []
        for child in table.entries:
            if level and child[0] == CHUNK:
                yield from self.walk(who, child, level - 1, at, segment, children)
            else:
                yield at, child
            at += child[1]
        table.check_packs(children)

# The three commands

def list_images(store):
    for image in store.images():
        ok, *others = (store.has_mark(image, mark) for mark in MARKS)
        words = ["confirmed" if ok else "unconfirmed"] + [mark for mark, there in zip(MARKS[1:], others) if there]
        manifest = store.gather(store.manifest, image)
        if manifest:
            names = [manifest[n] for n in ("bytes", "created", "host", "disk")]
            print(image, ",".join(words), *names, ",".join(manifest["tags"]), manifest["comment"], sep="\t")

def restore(store, prefix, out):
    found = [image for image in store.images() if image.startswith(prefix)]
    need(len(found) == 1, store.path, f"{len(found)} images begin with {prefix}")
    manifest = store.manifest(found[0])
    with open(out, "xb") as file:
        file.truncate(manifest["bytes"])
        for at, (kind, size, chunk, *hint, plain) in store.runs(found[0], manifest):
            if kind == CHUNK:  # what could not be read is left as zeros
                file.seek(at)
                file.write(store.fetch(f"image {found[0]} at {at:#x}", chunk, DATA, hint, plain))
    store.findings.clear()  # damage elsewhere: every byte of this image was hashed

def check(store):
    files = [os.path.join(root, name) for root, _, names in os.walk(store.path) for name in names]
    strange = [path for path in files if not NAMES.fullmatch(os.path.relpath(path, store.path))]
    store.findings += [f"{path}: a name that 4.1 does not know" for path in strange]
    sound = {}  # (chunk, kind) -> plain length
    for pack, path in store.packs.items():
        store.gather(check_pack, store, pack, path, sound)
    for folder in ("condemned", "sessions"):
        for name in store.names(folder):
            store.gather(record, f"{store.path}/{folder}/{name}", *RECORDS[folder])
    for image in store.images():
        for mark in MARKS:
            store.has_mark(image, mark)
        store.gather(check_image, store, image, sound)

def check_pack(store, pack, path, sound):
    data = read_whole(path, PACK_MAX)
    need(blake3(data) == pack, path, "does not hash to its name")
    for chunk, offset, stored, length, kind in store.trailer(pack):
        open_chunk(f"{path}, offset {offset:#x}", data[offset:offset + stored], length, chunk, kind)
        sound[chunk, kind] = length

def check_image(store, image, sound):
    manifest, counts = store.manifest(image), [0, 0, 0]
    for at, (kind, size, chunk, _, _, _, plain) in store.runs(image, manifest):
        counts[kind] += size
        good = kind != CHUNK or sound.get((chunk, DATA)) == plain
        need(good, f"image {image} at {at:#x}", f"no sound chunk {chunk and chunk.hex()}")
    found = [manifest["statistics"][name] for name in ("data_bytes", "zero_bytes", "bad_bytes")]
    need(counts == found, f"image {image}", f"data, zero, bad bytes: statistics say {found}, tables say {counts}")

def main(arguments):
    commands = {("list", 2): list_images, ("restore", 4): restore, ("check", 2): check}
    command = commands.get((arguments[1] if len(arguments) > 1 else "", len(arguments)))
    if not command:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        store = Store(arguments[0])
        command(store, *arguments[2:])
    except (Damaged, OSError, Unsupported) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2 if isinstance(error, Unsupported) else 1
    for finding in store.findings:
        print(finding, file=sys.stderr)
    return 1 if store.findings else 0

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
