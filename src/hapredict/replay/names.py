"""Names of policies, apart from what they do: the command's help needs no more."""

DEFAULT = ("never", "30d", "14d", "drift", "ours")
KNOWN = ("never", "30d", "14d-safe", "30d-better", "drift", "loss", "ours")
