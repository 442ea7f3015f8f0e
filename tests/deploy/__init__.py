"""What lies in deploy/: read by the programs that it is for, and run by them where they can be had."""
