"""What every process needs: logs and the address file."""
