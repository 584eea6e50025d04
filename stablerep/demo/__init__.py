"""The whole path on one machine: captions, images, training, probe, report (`stablerep demo`)."""
