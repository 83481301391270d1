"""The sample's oracle: reads PostgreSQL 15 WAL on its own, independently of the Rust reader, and is itself compared
with pg_waldump. Subcommands: wal, compare, images, manifest, end-before, starts (make.sh shows their use)."""
import hashlib, json, os, re, struct, subprocess, sys

PAGE = 8192
FORKS = {"main": 0, "fsm": 1, "vm": 2, "init": 3}
MANAGERS = ["XLOG", "Transaction", "Storage", "CLOG", "Database", "Tablespace", "MultiXact", "RelMap", "Standby",
            "Heap2", "Heap", "Btree", "Hash", "Gin", "Gist", "Sequence", "SPGist", "BRIN", "CommitTs",
            "ReplicationOrigin", "Generic", "LogicalMessage"]


def show(lsn):
    return "%X/%X" % (lsn >> 32, lsn & 0xFFFFFFFF)


def number(text):
    high, low = text.strip().split("/")
    return int(high, 16) << 32 | int(low, 16)


TABLE = []
for i in range(256):
    c = i
    for _ in range(8):
        c = c >> 1 ^ (0x82F63B78 if c & 1 else 0)
    TABLE.append(c)


def crc32c(data):
    c = 0xFFFFFFFF
    for b in data:
        c = TABLE[(c ^ b) & 0xFF] ^ c >> 8
    return c ^ 0xFFFFFFFF


class Wal:
    def __init__(self, directory):
        names = sorted(n for n in os.listdir(directory) if re.fullmatch("[0-9A-F]{24}", n))
        self.files = {}
        for name in names:
            data = open(os.path.join(directory, name), "rb").read()
            size = len(data)
            self.size = size
            self.files[int(name[8:16], 16) * (2**32 // size) + int(name[16:], 16)] = data

    def page(self, lsn):
        data = self.files.get(lsn // self.size)
        if data is None:
            return None
        page = data[lsn % self.size:lsn % self.size + PAGE]
        magic, info, _, address, rem = struct.unpack_from("<HHIQI", page)
        if magic != 0xD110 or address != lsn:
            return None
        return page, (40 if info & 2 else 24), info, rem

    def records(self, lsn):
        prev = None
        while True:
            if lsn % PAGE == 0:
                page = self.page(lsn)
                if page is None:
                    return
                lsn += page[1]
            base = lsn - lsn % PAGE
            page = self.page(base)
            total, = struct.unpack_from("<I", page[0], lsn % PAGE)
            if total < 24:
                return
            at = lsn % PAGE
            raw = page[0][at:at + total]
            at += len(raw)
            while len(raw) < total:
                base += PAGE
                page = self.page(base)
                if page is None or not page[2] & 1 or page[3] != total - len(raw):
                    return
                piece = page[0][page[1]:page[1] + total - len(raw)]
                raw += piece
                at = page[1] + len(piece)
            at += base
            crc, = struct.unpack_from("<I", raw, 20)
            back, = struct.unpack_from("<Q", raw, 8)
            if crc32c(raw[24:] + raw[:20]) != crc or prev is not None and back != prev:
                return
            end = at + 7 & ~7
            if raw[17] == 0 and raw[16] & 0xF0 == 0x40:
                end = -(-end // self.size) * self.size
            yield lsn, end, raw
            prev, lsn = lsn, end


def pglz(data, size):
    out, at = bytearray(), 0
    while at < len(data):
        control = data[at]
        at += 1
        for bit in range(8):
            if at >= len(data):
                break
            if control >> bit & 1:
                length, offset = (data[at] & 15) + 3, (data[at] & 0xF0) << 4 | data[at + 1]
                at += 2
                if length == 18:
                    length += data[at]
                    at += 1
                for _ in range(min(length, size - len(out))):
                    out.append(out[-offset])
            else:
                out.append(data[at])
                at += 1
    assert len(out) == size
    return bytes(out)


def lz4(data, size):
    out, at = bytearray(), 0
    while True:
        token = data[at]
        at += 1
        count = token >> 4
        if count == 15:
            while True:
                count += data[at]
                at += 1
                if data[at - 1] != 255:
                    break
        out += data[at:at + count]
        at += count
        if at >= len(data):
            break
        offset = data[at] | data[at + 1] << 8
        at += 2
        count = (token & 15) + 4
        if token & 15 == 15:
            while True:
                count += data[at]
                at += 1
                if data[at - 1] != 255:
                    break
        for _ in range(count):
            out.append(out[-offset])
    assert len(out) == size
    return bytes(out)


def zstd(data, size):
    out = subprocess.run(["zstd", "-dc"], input=data, stdout=subprocess.PIPE, check=True).stdout
    assert len(out) == size
    return out


def decode(raw):
    """-> (main data, origin, top-level xid, blocks); a block has its page if it has an image."""
    at, left, main, origin, toplevel, blocks, relation = 24, 0, 0, None, None, [], None
    while len(raw) - at > left:
        id = raw[at]
        at += 1
        if id == 255:
            main = raw[at]
            at += 1
            left += main
        elif id == 254:
            main, = struct.unpack_from("<I", raw, at)
            at += 4
            left += main
        elif id == 253:
            origin, = struct.unpack_from("<H", raw, at)
            at += 2
        elif id == 252:
            toplevel, = struct.unpack_from("<I", raw, at)
            at += 4
        else:
            flags, length = struct.unpack_from("<BH", raw, at)
            at += 3
            block = {"i": id, "f": flags & 15, "fl": flags & 0xF0, "dl": length}
            if flags & 0x10:
                il, ho, info = struct.unpack_from("<HHB", raw, at)
                at += 5
                hole = PAGE - il if info & 1 else 0
                if info & 1 and info & 0x1C:
                    hole, = struct.unpack_from("<H", raw, at)
                    at += 2
                block.update(bi=info, il=il, ho=ho, hl=hole, apply=bool(info & 2))
                left += il
            if not flags & 0x80:
                relation = list(struct.unpack_from("<III", raw, at))
                at += 12
            block["rel"] = relation
            block["blk"], = struct.unpack_from("<I", raw, at)
            at += 4
            left += length
            blocks.append(block)
    assert len(raw) - at == left
    for block in blocks:
        if "bi" in block:
            image, size = raw[at:at + block["il"]], PAGE - block["hl"]
            at += block["il"]
            if block["bi"] & 4:
                image = pglz(image, size)
            elif block["bi"] & 8:
                image = lz4(image, size)
            elif block["bi"] & 16:
                image = zstd(image, size)
            block["page"] = image[:block["ho"]] + bytes(block["hl"]) + image[block["ho"]:]
            assert len(block["page"]) == PAGE
        at += block["dl"]
    return main, origin, toplevel, blocks


def pd_lsn(page):
    high, low = struct.unpack_from("<II", page)
    return high << 32 | low


def line(lsn, end, raw):
    main, origin, toplevel, blocks = decode(raw)
    length, xid, prev, info, rm = struct.unpack_from("<IIQBB", raw)
    record = {"lsn": show(lsn), "end": show(end), "prev": show(prev), "rm": MANAGERS[rm], "info": info, "xid": xid,
              "len": length, "main": main}
    if origin is not None:
        record["origin"] = origin
    if toplevel is not None:
        record["toplevel"] = toplevel
    for block in blocks:
        page = block.pop("page", None)
        if page is not None:
            block["sha"] = hashlib.sha256(page).hexdigest()
            block["img_pd_lsn"] = show(pd_lsn(page))
        names = ["i", "rel", "f", "blk", "fl", "dl", "bi", "il", "ho", "hl", "apply", "sha", "img_pd_lsn"]
        record.setdefault("b", []).append({name: block[name] for name in names if name in block})
    return record


def raw16(page):
    return hashlib.sha256(page[:8] + b"\0\0" + page[10:]).hexdigest()[:16]


def wal(directory, start):
    for lsn, end, raw in Wal(directory).records(number(start)):
        print(json.dumps(line(lsn, end, raw), separators=(",", ":")))


def compare(oracle, dump):
    """Every record and block reference against `pg_waldump -b`."""
    dumped, records = [], 0
    for text in open(dump):
        head = re.match(r"rmgr: (\S+) +len \(rec/tot\): +(\d+)/ *(\d+), tx: +(\d+), lsn: (\S+), prev (\S+), ", text)
        if head:
            rm, _, total, xid, lsn, prev = head.groups()
            dumped.append((rm, int(total), int(xid), number(lsn), number(prev), []))
        block = re.match(r"\tblkref #(\d+): rel (\d+)/(\d+)/(\d+) fork (\w+) blk (\d+)(.*)", text)
        if block:
            i, spc, db, rel, fork, blk, rest = block.groups()
            hole = re.search(r"hole: offset: (\d+), length: (\d+)", rest)
            hole = tuple(map(int, hole.groups())) if hole else None
            dumped[-1][5].append((int(i), [int(spc), int(db), int(rel)], FORKS[fork], int(blk), hole, "for WAL" in rest))
    for text, (rm, total, xid, lsn, prev, blocks) in zip(open(oracle), dumped):
        mine = json.loads(text)
        assert (mine["rm"], mine["len"], mine["xid"], number(mine["lsn"]), number(mine["prev"])) == \
            (rm, total, xid, lsn, prev), text
        ours = [(b["i"], b["rel"], b["f"], b["blk"], (b["ho"], b["hl"]) if "bi" in b else None,
                 "bi" in b and not b["apply"]) for b in mine.get("b", [])]
        assert ours == blocks, (text, blocks)
        records += 1
    assert records == len(dumped) == sum(1 for _ in open(oracle)), (records, len(dumped))
    print(f"pg_waldump agrees on {records} records, {sum(len(d[5]) for d in dumped)} block references", file=sys.stderr)


def images(oracle, directory):
    """V lines of the pages that are images in the log, stamped as redo does."""
    start = json.loads(open(oracle).readline())["lsn"]
    print("# V end_lsn spc db rel fork blk raw16 pd_lsn, of applied images only")
    for _, end, raw in Wal(directory).records(number(start)):
        for block in decode(raw)[3]:
            if block.get("apply"):
                page = block["page"]
                if struct.unpack_from("<H", page, 14)[0]:
                    page = struct.pack("<II", end >> 32, end & 0xFFFFFFFF) + page[8:]
                print("V", show(end), *block["rel"], block["f"], block["blk"], raw16(page), show(pd_lsn(page)))


def manifest(directory):
    """A line for each block of database 5 and the shared relations, free space maps left out."""
    for place, spc, db in (("global", 1664, 0), ("base/5", 1663, 5)):
        for name in sorted(os.listdir(os.path.join(directory, place))):
            found = re.fullmatch(r"(\d+)(?:_(fsm|vm|init))?", name)
            if not found or found[2] == "fsm":
                continue
            data = open(os.path.join(directory, place, name), "rb").read()
            for block in range(len(data) // PAGE):
                page = data[block * PAGE:(block + 1) * PAGE]
                print(spc, db, found[1], FORKS[found[2] or "main"], block, show(pd_lsn(page)), raw16(page), sep="\t")


def end_before(oracle, lsn):
    last = None
    for text in open(oracle):
        end = json.loads(text)["end"]
        if number(end) > number(lsn):
            break
        last = end
    print(last)


def starts(oracle):
    for text in open(oracle):
        print(json.loads(text)["lsn"])


if __name__ == "__main__":
    {"wal": wal, "compare": compare, "images": images, "manifest": manifest, "end-before": end_before,
     "starts": starts}[sys.argv[1]](*sys.argv[2:])
