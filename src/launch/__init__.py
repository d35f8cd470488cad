"""What a run of several processes needs: each ends when another fails, and all are as many as the Trainer expects."""
