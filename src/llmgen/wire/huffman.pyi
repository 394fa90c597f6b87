def encode(text: bytes) -> bytes:
    """The text in the Huffman code of RFC 7541 appendix B, padded with ones to whole bytes."""

def decode(code: bytes) -> bytes:
    """The text of a Huffman coded string. ValueError: EOS in it, or padding that is not at most 7 bits of ones."""
