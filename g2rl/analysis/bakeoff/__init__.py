"""The results of a bake-off, from stored rows alone: no run is needed to make the table again.

rows           what is stored of each run, and the rate that an arm does best at
study          what is compared on one task, and which rows count
leaderboard    the tables in markdown, each family of tests adjusted
"""
