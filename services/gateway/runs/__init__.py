"""The runs API of the gateway, and the loop that carries runs out where they are jobs of a cluster."""
