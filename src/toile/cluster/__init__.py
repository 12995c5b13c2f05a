"""Workers on several machines, through Ray: joining a cluster, places for workers, and what becomes of them."""
