"""What `llmgen serve` can be told; the flags have the same names."""

from __future__ import annotations

import msgspec

DEFAULT_MODEL = "simulated"


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Distributions are text as in distribution.py, times with their unit."""

    host: str = "127.0.0.1"
    port: int = 0  # 0: any free one
    unix: str | None = None  # path of a unix socket instead of host and port
    ttft: str = "100ms"  # arrival of the request → first token
    itl: str = "20ms"  # from one event to the next
    output_tokens: str | None = None  # None: as many as the request allows (128 if it does not say)
    tokens_per_event: str = "1"
    step: str = "0"  # all running streams emit together every so often, instead of itl
    slots: int = 0  # answers that run at once, others wait for their turn; 0: any number
    engine: str | None = None  # presets.py: a model of an engine has the times instead of ttft, itl, step and slots
    prefix_blocks: int = 0  # words of a block: counts what prompts share with earlier ones; 0: does not
    fault: tuple[str, ...] = ()  # faults.py
    seed: int = 1
    cores: str | None = None  # "0" or "0,2-3": one pinned sending thread a core; None: one, not pinned
    truth: str | None = None  # file for the truth log
    http: str = "both"  # 1.1 | 2 | both
    tls: bool = False
    cert: str | None = None  # PEM; None with tls: a self-signed certificate for localhost
    key: str | None = None
    write_cert: str | None = None  # the self-signed certificate is written there, for clients to trust
    client_ca: str | None = None  # PEM: clients must show a certificate of this authority
    models: tuple[str, ...] = ()  # names served; (): one of the simulator's own is told, any is served
    stop_on_eof: bool = False  # end when standard input does: a child does not outlive its parent
