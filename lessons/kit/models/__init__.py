"""What several lessons' models need, and none of them teaches."""
