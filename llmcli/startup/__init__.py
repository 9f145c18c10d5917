"""What commands do before torch is loaded: load it ahead and in part, read files meanwhile, and set its threads."""
