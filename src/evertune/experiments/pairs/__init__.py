"""The analysis of the paper: how similar tasks are, which task hurts which, and whether the one tells the other.

evertune similarity parcel
evertune pairs parcel --seeds 0,1,2 --out runs/pairs
"""
