"""What is fast, as ratios measured side by side in one run: machines are shared and noisy, ratios hold."""
