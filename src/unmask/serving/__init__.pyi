from .app import create_app as create_app
from .export import export_page as export_page
from .limits import Limits as Limits
from .server import serve as serve
from .trajectory import Trajectory as Trajectory
from .trajectory import record as record

__all__ = ["create_app", "serve", "Limits", "Trajectory", "record", "export_page"]
