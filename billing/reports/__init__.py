"""What it cost and what it brought in, by whatever one asks: costs, FOCUS, forecast, margin."""
