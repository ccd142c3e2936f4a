def read_dinov2(path):
    raise NotImplementedError
