"""From the keys of a recipe to what it trains and tests on; the key ``corpus`` says of what."""
