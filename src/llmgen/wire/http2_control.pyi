# Nothing of this module is for Python; llmgen.wire.http2 is its face.
