"""What must survive: the store, bundles of models, the catalog of who serves, the lease."""
