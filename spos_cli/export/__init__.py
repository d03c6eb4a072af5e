"""Networks in other formats, for use without `spos`"""
