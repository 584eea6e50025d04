"""What every process needs: logs, and the file that tells its address."""
