"""Generated from proto/stablerep/v1 by `make proto`; do not edit."""
