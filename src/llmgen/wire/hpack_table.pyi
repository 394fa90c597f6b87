# Nothing of this module is for Python; the tables show as Decoder.table and Encoder.table of llmgen.wire.hpack.
