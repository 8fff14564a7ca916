"""The references of the homework, built from `solutions/`. Reading them first spoils the fun."""
