"""A cluster of many nodes on one machine, whose nodes and cables can be broken on purpose."""
