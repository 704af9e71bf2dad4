"""Power lines and exit signs: which pixels they cover, and what lies behind them."""
