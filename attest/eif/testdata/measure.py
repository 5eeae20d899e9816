"""A second reader of enclave images, written from the format's description: prints its PCRs and checks its CRC."""
import hashlib, json, struct, sys, zlib

image = open(sys.argv[1], "rb").read()
count = struct.unpack_from(">H", image, 26)[0]
offsets = struct.unpack_from(">32Q", image, 28)
assert zlib.crc32(image[:544] + image[548:]) == struct.unpack_from(">I", image, 544)[0], "CRC"
parts = {"PCR0": b"", "PCR1": b"", "PCR2": b""}
ramdisks = 0
for offset in offsets[:count]:
    kind, flags, size = struct.unpack_from(">HHQ", image, offset)
    data = image[offset + 12 : offset + 12 + size]
    if kind in (1, 2):
        parts["PCR0"] += data
        parts["PCR1"] += data
    elif kind == 3:
        parts["PCR0"] += data
        parts["PCR1" if ramdisks == 0 else "PCR2"] += data
        ramdisks += 1
print(json.dumps({k: hashlib.sha384(bytes(48) + hashlib.sha384(v).digest()).hexdigest() for k, v in parts.items()}))
