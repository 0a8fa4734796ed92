"""Events that commit with your data, and reach the broker afterwards."""
