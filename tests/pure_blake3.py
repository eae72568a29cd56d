"""BLAKE3 in plain Python, for machines whose Python has no `blake3` module: hash and derive-key mode.

Promises: the bytes that the reference gives. Knows nothing of stores. Source: the BLAKE3 paper, section 2.
"""
import struct

# A word of many hashes side by side is one long integer, 64 bits a lane, so that one
# addition of Python's adds in every lane.

IV = (0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19)
PERMUTATION = (2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8)
MIXES = ((0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15),
         (0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14))
START, END, PARENT, ROOT, CONTEXT, MATERIAL = 1, 2, 4, 8, 32, 64

def lanes(words):
    return int.from_bytes(struct.pack(f"<{len(words)}Q", *words), "little")

def unlanes(long, count):
    return list(struct.unpack(f"<{count}Q", long.to_bytes(8 * count, "little")))

def compress(chaining, block, counters, length, flags):
    """One block in each lane; `chaining` (8) and `block` (16) are lists of long integers."""
    every = lanes([1] * len(counters))
    mask = every * 0xFFFFFFFF
    v = list(chaining) + [every * word for word in IV[:4]]
    v += [lanes([c & 0xFFFFFFFF for c in counters]), lanes([c >> 32 for c in counters]), every * length, every * flags]
    for _ in range(7):
        for i, (a, b, c, d) in enumerate(MIXES):
            va, vb, vc, vd = v[a], v[b], v[c], v[d]
            for word, right, last in ((block[2 * i], 16, 12), (block[2 * i + 1], 8, 7)):
                va = (va + vb + word) & mask
                vd ^= va
                vd = (vd >> right | vd << 32 - right) & mask
                vc = (vc + vd) & mask
                vb ^= vc
                vb = (vb >> last | vb << 32 - last) & mask
            v[a], v[b], v[c], v[d] = va, vb, vc, vd
        block = [block[p] for p in PERMUTATION]
    return [v[i] ^ v[i + 8] for i in range(8)]

def chunk_values(data, first, count, key, flags, root=0):
    """The chaining values of `count` chunks of 1024 bytes, or of one that may be shorter: 8 lists of words."""
    blocks = max(1, -(-len(data) // count // 64))
    words = struct.unpack(f"<{16 * blocks * count}I", data.ljust(64 * blocks * count, b"\0"))
    cv = [lanes([word] * count) for word in key]
    for j in range(blocks):
        block = [lanes(words[16 * j + w::16 * blocks]) for w in range(16)]
        extra = (START if j == 0 else 0) | ((END | root) if j == blocks - 1 else 0)
        cv = compress(cv, block, range(first, first + count), min(64, len(data) // count - 64 * j), flags | extra)
    return [unlanes(word, count) for word in cv]

def blake3_tree(data, key, flags):
    count = max(1, -(-len(data) // 1024))
    cvs = [[] for _ in range(8)]
    for first, many in [(i, min(256, count - 1 - i)) for i in range(0, count - 1, 256)] + [(count - 1, 1)]:
        part = data[first * 1024:(first + many) * 1024]
        for column, words in zip(cvs, chunk_values(part, first, many, key, flags, ROOT if count == 1 else 0)):
            column += words
    while count > 1:  # neighbours become parents; one left over moves up as it is: the paper's tree
        pairs = count // 2
        block = [lanes(column[side:2 * pairs:2]) for side in (0, 1) for column in cvs]
        root = ROOT if count == 2 else 0
        parents = compress([lanes([k] * pairs) for k in key], block, [0] * pairs, 64, flags | PARENT | root)
        cvs = [unlanes(p, pairs) + column[2 * pairs:] for p, column in zip(parents, cvs)]
        count -= pairs
    return struct.pack("<8I", *(column[0] for column in cvs))

def blake3(data, derive_key_context=None):
    if derive_key_context is None:
        return blake3_tree(data, IV, 0)
    key = struct.unpack("<8I", blake3_tree(derive_key_context.encode(), IV, CONTEXT))
    return blake3_tree(data, key, MATERIAL)
